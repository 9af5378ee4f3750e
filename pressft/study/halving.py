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
from pressft.study.trials import Row

KEPT = 3  # one in so many goes on


@dataclass(frozen=True, slots=True)
class Verdict:
    """The resting trials that go on, in order, and those that end, each with why."""

    onward: tuple[Row, ...]
    behind: tuple[tuple[Row, str], ...]


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

    def first_loss(self, row: Row) -> float | None:
        """What trials that went on to different lengths are compared by: the loss at the first
        rung; the last one where there are no rungs."""
        return self._loss(row, self._at[0]) if self._at else row.value

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

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        """What becomes of the trials that rest, of all those of cells not to be taken anew."""
        if not self._at:
            return Verdict((), ())
        onward: list[Row] = []
        behind: list[tuple[Row, str]] = []
        field: dict[str, list[Row]] = {arm: [] for arm in self._study.arms()}
        for row in {row.key: row for row in rows}.values():
            if row.params["seed"] == self._study.seeds[0] and row.arm in field:
                field[row.arm].append(row)
        n_arms = len(field)
        field = {arm: had for arm, had in field.items() if len(had) >= self._study.n_first}
        for rung in self._at:
            field = {arm: had for arm, had in field.items() if self._all_there(had, rung)}
            if self._over_arms and len(field) < n_arms:
                break
            ranked = {arm: self._ranked(had, rung) for arm, had in field.items()}
            kept = {arm: best[: _few(len(field[arm]))] for arm, best in ranked.items() if best}
            for arm, best in kept.items():
                lost = (row for row in ranked[arm][len(best) :] if row.rests)
                behind += [(row, self._why(row, rung, best[0], "it is")) for row in lost]
            for arm, ahead in self._lost_arms(kept, rung):
                lost = (row for row in kept.pop(arm) if row.rests)
                behind += [(row, self._why(row, rung, ahead, "its arm is")) for row in lost]
            at_rung = (row for best in kept.values() for row in best if row.rests)
            onward += [row for row in at_rung if row.tokens <= rung]
            field, n_arms = kept, len(kept)
        return Verdict(tuple(onward), tuple(behind))

    def _lost_arms(self, kept: Mapping[str, Sequence[Row]], rung: int) -> list[tuple[str, Row]]:
        """The arms that end at a rung, each with the best trial of those that do not."""
        cut = [arm for arm in kept if arm != WHOLE] if self._over_arms else []
        cut.sort(key=lambda arm: self._rank(kept[arm][0], rung))
        return [(arm, kept[cut[0]][0]) for arm in cut[_few(len(cut)) :]]

    def _loss(self, row: Row, rung: int) -> float | None:
        """Validation loss after the tokens of a rung; None for a trial that has not seen them."""
        return next((loss for tokens, loss in row.losses if tokens >= rung), row.value)

    def _rank(self, row: Row, rung: int) -> tuple[float, str]:
        loss = self._loss(row, rung)
        return math.inf if loss is None else loss, row.key

    def _all_there(self, rows: Iterable[Row], rung: int) -> bool:
        return all(row.state == "fail" or self._loss(row, rung) is not None for row in rows)

    def _ranked(self, rows: Iterable[Row], rung: int) -> list[Row]:
        """Those that have not failed, the best first."""
        return sorted((r for r in rows if r.state != "fail"), key=lambda r: self._rank(r, rung))

    def _why(self, row: Row, rung: int, best: Row, who: str) -> str:
        loss, ahead = self._loss(row, rung), self._loss(best, rung)
        found = f"validation loss {loss:.4g}, best {ahead:.4g}"
        return f"after {rung:,} tokens {who} behind: {found}"


def _few(n: int) -> int:
    """A third, rounded up."""
    return -(-n // KEPT)
