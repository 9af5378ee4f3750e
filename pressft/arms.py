"""The finding of a study as a table: one row an arm, the best trial chosen by validation (law 6).

Pure arithmetic on results; where they come from is left to `sweep`.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pressft import intervals
from pressft.intervals import Interval
from pressft.results import TrialResult, Untrained
from pressft.scores import Score, exp, recovery, total
from pressft.spec import Part

WHOLE = "none"


@dataclass(frozen=True, slots=True)
class Done:
    """A finished trial: its number, what it tried (all params but the seed), its result."""

    number: int
    config: str
    result: TrialResult


@dataclass(frozen=True, slots=True)
class Arm:
    """One row. Scores are of the test split, with 95% intervals over its documents.

    `trained` is the score of the best configuration by validation, over its seeds together;
    `ratio` its perplexity over that of the trained whole model.
    """

    arm: str
    parts: tuple[Part, ...]
    trials: int
    best_trial: int | None
    untrained: Score
    trained: Score | None
    interval: Interval | None
    ratio: float | None
    ratio_interval: Interval | None
    recovery: float | None
    parameters: int  # of the cut model
    saved: int  # parameters that the cut took away

    @property
    def label(self) -> str:
        """Arm for people: the removed layers beside the name."""
        if not self.parts:
            return "none (whole)"
        parts = ",".join(map(str, self.parts))
        return self.arm if self.arm == parts else f"{self.arm} ({parts})"

    def as_json(self) -> dict[str, Any]:
        """The row for `--json`; perplexities of the test split."""
        trained = self.trained
        return {
            "arm": self.arm,
            "layers": list(self.parts),
            "trials": self.trials,
            "best_trial": self.best_trial,
            "perplexity_untrained": _finite(self.untrained.perplexity),
            "perplexity_trained": _finite(trained.perplexity) if trained else None,
            "perplexity_interval": _pair(self.interval),
            "bits_per_byte": trained.bits_per_byte if trained else None,
            "word_perplexity": _finite(trained.word_perplexity) if trained else None,
            "ratio_to_whole": _finite(self.ratio) if self.ratio else None,
            "ratio_interval": _pair(self.ratio_interval),
            "recovery": self.recovery,
            "parameters": self.parameters,
            "parameters_saved": self.saved,
        }


def arms(untrained: Mapping[str, Untrained], trials: Mapping[str, Sequence[Done]]) -> list[Arm]:
    """Rows in the order of `untrained`; `trials` holds the finished trials of each arm."""
    best = {arm: choose(done) for arm, done in trials.items()}
    whole = best.get(WHOLE, ())
    return [
        _row(arm, cut, len(trials.get(arm, ())), best.get(arm, ()), whole)
        for arm, cut in untrained.items()
    ]


def choose(done: Sequence[Done]) -> tuple[Done, ...]:
    """The trials, one a seed, of the best configuration by validation loss, never by test.

    Of the configurations with the most seeds, the one with the lowest mean loss; the earlier one
    of equals. Empty where none has a finite loss.
    """
    configs: dict[str, list[Done]] = {}
    for trial in done:
        if math.isfinite(trial.result.validation.loss):
            configs.setdefault(trial.config, []).append(trial)

    def merit(trials: Sequence[Done]) -> tuple[int, float, int]:
        losses = [trial.result.validation.loss for trial in trials]
        return -len(trials), math.fsum(losses) / len(losses), trials[0].number

    ranked = sorted(configs.values(), key=merit)
    return tuple(ranked[0]) if ranked else ()


def tested(trials: Sequence[Done]) -> Score:
    """Score of the test split, over all these trials together."""
    return total(score for trial in trials for score in trial.result.test)


def _row(
    arm: str, cut: Untrained, n_trials: int, best: Sequence[Done], whole: Sequence[Done]
) -> Arm:
    before = total(cut.test)
    row = Arm(
        arm=arm,
        parts=cut.removal.parts,
        trials=n_trials,
        best_trial=best[0].number if best else None,
        untrained=before,
        trained=None,
        interval=None,
        ratio=None,
        ratio_interval=None,
        recovery=None,
        parameters=cut.parameters,
        saved=cut.removal.parameters,
    )
    if not best:
        return row
    trained, runs = tested(best), [trial.result.test for trial in best]
    row = replace(row, trained=trained, interval=intervals.perplexity(runs))
    if arm == WHOLE or not whole:
        return row
    reference = tested(whole)
    return replace(
        row,
        ratio=exp(trained.loss - reference.loss),
        ratio_interval=intervals.ratio(runs, [trial.result.test for trial in whole]),
        recovery=recovery(before, trained, reference),
    )


CAPTION = "Perplexity on the test split, with 95% intervals over its documents."
HEADER = (
    *("arm", "trials", "untrained", "trained", "x whole", "share healed", "parameters saved"),
)


def cells(row: Arm) -> tuple[str, ...]:
    """The row as text, under `HEADER`."""
    share = row.saved / (row.saved + row.parameters)
    return (
        row.label,
        str(row.trials),
        number(row.untrained.perplexity),
        _with(number(row.trained.perplexity), row.interval) if row.trained else "-",
        _compared(row),
        f"{row.recovery:.0%}" if row.recovery is not None else "-",
        f"{_short(row.saved)} ({share:.1%})" if row.saved else "-",
    )


def _compared(row: Arm) -> str:
    """Perplexity over that of the trained whole model, and whether a difference is shown."""
    if row.ratio is None or row.ratio_interval is None:
        return "-"
    text = _with(_times(row.ratio), row.ratio_interval, _times)
    return f"{text} (no difference shown)" if 1 in row.ratio_interval else text


def _with(text: str, interval: Interval | None, form: Callable[[float], str] | None = None) -> str:
    """A number with its interval: `38.9 [34.1, 44.6]`."""
    if interval is None:
        return text
    form = form or _bound
    return f"{text} [{form(interval.low)}, {form(interval.high)}]"


def _bound(perplexity: float) -> str:
    """An end of an interval: a large one needs no five digits."""
    return number(perplexity) if perplexity < 10_000 else f"{perplexity / 1000:,.3g}k"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else number(ratio)


def references(rows: Sequence[Arm]) -> list[str]:
    """The two lines that every arm is read against."""
    whole = next((row for row in rows if row.arm == WHOLE), None)
    if whole is None:
        return []
    lines = [f"whole model, untrained: test perplexity {number(whole.untrained.perplexity)}"]
    if whole.trained:
        lines.append(f"whole model, trained:   test perplexity {number(whole.trained.perplexity)}")
    return lines


def markdown(rows: Sequence[Arm]) -> str:
    """The table as Markdown."""
    lines = [HEADER, ("---", *["---:"] * (len(HEADER) - 1)), *map(cells, rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([CAPTION, table, *references(rows)]) + "\n"


def as_csv(rows: Sequence[Arm]) -> str:
    """The table as CSV, unrounded."""
    out = io.StringIO()
    dicts = [row.as_json() | {"layers": " ".join(map(str, row.parts))} for row in rows]
    writer = csv.DictWriter(out, list(dicts[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(dicts)
    return out.getvalue()


def number(perplexity: float) -> str:
    """A perplexity for people: 39.7, 222, 43,189."""
    return f"{perplexity:,.1f}" if perplexity < 100 else f"{perplexity:,.0f}"


def _short(n: int) -> str:
    """A count of parameters for people: 37,024 or 3.54M."""
    return f"{n / 1e6:,.2f}M" if n >= 1e6 else f"{n:,}"


def _pair(interval: Interval | None) -> list[float | None] | None:
    return [_finite(interval.low), _finite(interval.high)] if interval else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
