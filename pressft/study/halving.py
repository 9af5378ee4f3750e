"""Successive halving: which trials paused at a rung are resumed, and which end there.

All trials of an arm are trained for a ninth of their tokens. The best third of them, at least one,
continues to five ninths, and the best third of those to the end. (After a third of the tokens a
learning rate that is too low for the end still looks better than the right one.) A trial is saved
and paused at a rung until all trials of its arm have reached it, so what continues depends neither
on which trial came first nor on the number of workers (law 7). Where arms are halved, too, all arms
wait for each other at a rung, and the best third of the cut arms, by their best trial, continues;
the whole model always does.

Only trials of the first seed take part; a repetition with another seed is trained to its end.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pressft.spec import WHOLE, TrialSpec
from pressft.study.study import Study
from pressft.study.trials import Trial

KEPT = 3  # one trial in so many continues


@dataclass(frozen=True, slots=True)
class Verdict:
    """The paused trials to resume, in order, and those to prune, each with the reason."""

    resumed: tuple[Trial, ...]
    pruned: tuple[tuple[Trial, str], ...]


def rungs(spec: TrialSpec) -> tuple[int, ...]:
    """Tokens seen at each rung: the first and third validations, where they precede the end."""
    found = (step * spec.batch * spec.block for step in spec.validated_at[:3:2])
    return tuple(tokens for tokens in found if tokens < spec.trained_tokens)


class Halving:
    """Successive halving of one study; a study without halving has no rungs."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._over_arms = study.pruning == "halving-arms"
        rivals = study.n_first > 1 or self._over_arms
        self._at = rungs(study.base) if study.pruning.startswith("halving") and rivals else ()

    def next_rung(self, spec: TrialSpec, seen: int = 0) -> int | None:
        """Tokens at the next rung after `seen` tokens; None if the trial is trained to its end."""
        if spec.seed != self._study.seeds[0]:
            return None
        return next((tokens for tokens in self._at if tokens > seen), None)

    def first_loss(self, trial: Trial) -> float | None:
        """The loss that trials of different lengths are compared by: at the first rung, or the
        final one where there are no rungs."""
        return self._loss(trial, self._at[0]) if self._at else trial.value

    def trained_share(self) -> float:
        """The share of all trials' tokens that is trained on if no trial fails."""
        base, arms = self._study.base, self._study.arms()
        whole = sum(arm == WHOLE for arm in arms)
        cut, configs = len(arms) - whole, self._study.n_first
        first = len(arms) * configs
        trained, seen = 0, 0
        for tokens in (*self._at, base.trained_tokens):
            trained += (whole + cut) * configs * (tokens - seen)
            configs, seen = _n_kept(configs), tokens
            cut = _n_kept(cut) if self._over_arms else cut
        others = self._study.n_trials - first
        return (trained / base.trained_tokens + others) / self._study.n_trials

    def verdict(self, trials: Sequence[Trial]) -> Verdict:
        """Decide which of the paused trials are resumed, and which are pruned; `trials` are those
        whose cells are not to be run again."""
        if not self._at:
            return Verdict((), ())
        resumed: list[Trial] = []
        pruned: list[tuple[Trial, str]] = []
        arms: dict[str, list[Trial]] = {arm: [] for arm in self._study.arms()}
        for trial in {trial.key: trial for trial in trials}.values():
            if trial.params["seed"] == self._study.seeds[0] and trial.arm in arms:
                arms[trial.arm].append(trial)
        n_arms = len(arms)
        arms = {arm: all_ for arm, all_ in arms.items() if len(all_) >= self._study.n_first}
        for rung in self._at:
            arms = {arm: all_ for arm, all_ in arms.items() if self._all_reached(all_, rung)}
            if self._over_arms and len(arms) < n_arms:
                break
            ranked = {arm: self._ranked(all_, rung) for arm, all_ in arms.items()}
            kept = {arm: best[: _n_kept(len(arms[arm]))] for arm, best in ranked.items() if best}
            for arm, best in kept.items():
                lost = (trial for trial in ranked[arm][len(best) :] if trial.is_paused)
                pruned += [(trial, self._why(trial, rung, best[0], "it is")) for trial in lost]
            for arm, ahead in self._pruned_arms(kept, rung):
                lost = (trial for trial in kept.pop(arm) if trial.is_paused)
                pruned += [(trial, self._why(trial, rung, ahead, "its arm is")) for trial in lost]
            at_rung = (trial for best in kept.values() for trial in best if trial.is_paused)
            resumed += [trial for trial in at_rung if trial.tokens <= rung]
            arms, n_arms = kept, len(kept)
        return Verdict(tuple(resumed), tuple(pruned))

    def _pruned_arms(
        self, kept: Mapping[str, Sequence[Trial]], rung: int
    ) -> list[tuple[str, Trial]]:
        """The arms that end at a rung, each with the best trial of the continuing arms."""
        cut = [arm for arm in kept if arm != WHOLE] if self._over_arms else []
        cut.sort(key=lambda arm: self._rank(kept[arm][0], rung))
        return [(arm, kept[cut[0]][0]) for arm in cut[_n_kept(len(cut)) :]]

    def _loss(self, trial: Trial, rung: int) -> float | None:
        """The validation loss at a rung; None for a trial that has not reached it."""
        return next((loss for tokens, loss in trial.losses if tokens >= rung), trial.value)

    def _rank(self, trial: Trial, rung: int) -> tuple[float, str]:
        loss = self._loss(trial, rung)
        return math.inf if loss is None else loss, trial.key

    def _all_reached(self, trials: Iterable[Trial], rung: int) -> bool:
        return all(trial.state == "fail" or self._loss(trial, rung) is not None for trial in trials)

    def _ranked(self, trials: Iterable[Trial], rung: int) -> list[Trial]:
        """The trials that have not failed, the best first."""
        return sorted((t for t in trials if t.state != "fail"), key=lambda t: self._rank(t, rung))

    def _why(self, trial: Trial, rung: int, best: Trial, who: str) -> str:
        loss, ahead = self._loss(trial, rung), self._loss(best, rung)
        found = f"validation loss {loss:.4g}, best {ahead:.4g}"
        return f"after {rung:,} tokens {who} behind: {found}"


def _n_kept(n: int) -> int:
    """A third, rounded up."""
    return -(-n // KEPT)
