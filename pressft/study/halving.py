"""Successive halving: which trials go on from the rungs that they rest at, and which end there.

All trials of an arm are trained for a ninth of their tokens. The best third of them, one at least,
goes on to five ninths, the best third of those to the end. (After a third of the tokens a learning
rate that is too low for the end still looks better than the right one.) A trial rests at a rung,
saved, until all of its arm have come there, so what goes on does not depend on who came first, or
on how many work (law 7). Where arms are halved, too, all arms wait for each other at a rung, and
the best third of the cut ones, by their best trial, goes on; the whole model always does.

Only trials of the first seed take part; a repetition of one with another seed is trained whole.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pressft.spec import WHOLE, TrialSpec
from pressft.study.study import Study
from pressft.study.trials import Trial

KEPT = 3  # one in so many goes on


@dataclass(frozen=True, slots=True)
class Verdict:
    """The resting trials that go on, in order, and those that end, each with why."""

    onward: tuple[Trial, ...]
    behind: tuple[tuple[Trial, str], ...]


def of(spec: TrialSpec) -> tuple[int, ...]:
    """Tokens seen at the rungs: where validation is scored first and third, before the end."""
    found = (step * spec.batch * spec.block for step in spec.validated_at[:3:2])
    return tuple(tokens for tokens in found if tokens < spec.trained_tokens)


class Rungs:
    """The rungs of one study; without halving it has none."""

    def __init__(self, study: Study) -> None:
        """Of this study."""
        self._study = study
        self._over_arms = study.pruning == "halving-arms"
        rivals = study.n_first > 1 or self._over_arms
        self._at = of(study.base) if study.pruning.startswith("halving") and rivals else ()

    def until(self, spec: TrialSpec, seen: int = 0) -> int | None:
        """Tokens at the next rung of a trial that has seen so many; None: it goes to its end."""
        if spec.seed != self._study.seeds[0]:
            return None
        return next((tokens for tokens in self._at if tokens > seen), None)

    def first_loss(self, trial: Trial) -> float | None:
        """What trials that went on to different lengths are compared by: the loss at the first
        rung; the last one where there are no rungs."""
        return self._loss(trial, self._at[0]) if self._at else trial.value

    def share(self) -> float:
        """Share of the tokens of all trials that is trained on, if none fails."""
        base, arms = self._study.base, self._study.arms()
        whole = sum(arm == WHOLE for arm in arms)
        cut, configs = len(arms) - whole, self._study.n_first
        first = len(arms) * configs
        trained, seen = 0, 0
        for tokens in (*self._at, base.trained_tokens):
            trained += (whole + cut) * configs * (tokens - seen)
            configs, seen = _few(configs), tokens
            cut = _few(cut) if self._over_arms else cut
        others = self._study.n_trials - first
        return (trained / base.trained_tokens + others) / self._study.n_trials

    def verdict(self, trials: Sequence[Trial]) -> Verdict:
        """What becomes of the trials that rest, of all those of cells not to be taken anew."""
        if not self._at:
            return Verdict((), ())
        onward: list[Trial] = []
        behind: list[tuple[Trial, str]] = []
        field: dict[str, list[Trial]] = {arm: [] for arm in self._study.arms()}
        for trial in {trial.key: trial for trial in trials}.values():
            if trial.params["seed"] == self._study.seeds[0] and trial.arm in field:
                field[trial.arm].append(trial)
        n_arms = len(field)
        field = {arm: had for arm, had in field.items() if len(had) >= self._study.n_first}
        for rung in self._at:
            field = {arm: had for arm, had in field.items() if self._all_there(had, rung)}
            if self._over_arms and len(field) < n_arms:
                break
            ranked = {arm: self._ranked(had, rung) for arm, had in field.items()}
            kept = {arm: best[: _few(len(field[arm]))] for arm, best in ranked.items() if best}
            for arm, best in kept.items():
                lost = (trial for trial in ranked[arm][len(best) :] if trial.rests)
                behind += [(trial, self._why(trial, rung, best[0], "it is")) for trial in lost]
            for arm, ahead in self._lost_arms(kept, rung):
                lost = (trial for trial in kept.pop(arm) if trial.rests)
                behind += [(trial, self._why(trial, rung, ahead, "its arm is")) for trial in lost]
            at_rung = (trial for best in kept.values() for trial in best if trial.rests)
            onward += [trial for trial in at_rung if trial.tokens <= rung]
            field, n_arms = kept, len(kept)
        return Verdict(tuple(onward), tuple(behind))

    def _lost_arms(self, kept: Mapping[str, Sequence[Trial]], rung: int) -> list[tuple[str, Trial]]:
        """The arms that end at a rung, each with the best trial of those that do not."""
        cut = [arm for arm in kept if arm != WHOLE] if self._over_arms else []
        cut.sort(key=lambda arm: self._rank(kept[arm][0], rung))
        return [(arm, kept[cut[0]][0]) for arm in cut[_few(len(cut)) :]]

    def _loss(self, trial: Trial, rung: int) -> float | None:
        """Validation loss after the tokens of a rung; None for a trial that has not seen them."""
        return next((loss for tokens, loss in trial.losses if tokens >= rung), trial.value)

    def _rank(self, trial: Trial, rung: int) -> tuple[float, str]:
        loss = self._loss(trial, rung)
        return math.inf if loss is None else loss, trial.key

    def _all_there(self, trials: Iterable[Trial], rung: int) -> bool:
        return all(trial.state == "fail" or self._loss(trial, rung) is not None for trial in trials)

    def _ranked(self, trials: Iterable[Trial], rung: int) -> list[Trial]:
        """Those that have not failed, the best first."""
        return sorted((r for r in trials if r.state != "fail"), key=lambda r: self._rank(r, rung))

    def _why(self, trial: Trial, rung: int, best: Trial, who: str) -> str:
        loss, ahead = self._loss(trial, rung), self._loss(best, rung)
        found = f"validation loss {loss:.4g}, best {ahead:.4g}"
        return f"after {rung:,} tokens {who} behind: {found}"


def _few(n: int) -> int:
    """A third, rounded up."""
    return -(-n // KEPT)
