"""The finding of a study as a table: one row an arm, the best trial chosen by validation (law 6).

Pure arithmetic on results; where they come from is left to `sweep`.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pressft.results import TrialResult, Untrained
from pressft.scores import Score, recovery, total

WHOLE = "none"


@dataclass(frozen=True, slots=True)
class Arm:
    """One row. Scores are of the test split; `trained` is that of the best trial by validation."""

    arm: str
    layers: tuple[int, ...]
    trials: int
    best_trial: int | None
    untrained: Score
    trained: Score | None
    recovery: float | None
    parameters: int  # of the cut model
    saved: int  # parameters that the cut took away

    @property
    def label(self) -> str:
        """Arm for people: the removed layers beside the name."""
        if not self.layers:
            return "none (whole)"
        layers = ",".join(map(str, self.layers))
        return self.arm if self.arm == layers else f"{self.arm} ({layers})"

    def as_json(self) -> dict[str, Any]:
        """The row for `--json`; perplexities of the test split."""
        trained = self.trained
        return {
            "arm": self.arm,
            "layers": list(self.layers),
            "trials": self.trials,
            "best_trial": self.best_trial,
            "perplexity_untrained": _finite(self.untrained.perplexity),
            "perplexity_trained": _finite(trained.perplexity) if trained else None,
            "recovery": self.recovery,
            "parameters": self.parameters,
            "parameters_saved": self.saved,
        }


def arms(
    untrained: Mapping[str, Untrained],
    trials: Mapping[str, Sequence[tuple[int, TrialResult]]],
) -> list[Arm]:
    """Rows in the order of `untrained`; `trials` holds each arm's (number, result)."""
    best = {arm: choose(results) for arm, results in trials.items()}
    whole = best.get(WHOLE)
    rows = []
    for arm, cut in untrained.items():
        chosen = best.get(arm)
        before = total(cut.test)
        trained = chosen[1].test_score if chosen else None
        healed = arm != WHOLE and trained and whole
        rows.append(
            Arm(
                arm=arm,
                layers=cut.removal.layers,
                trials=len(trials.get(arm, ())),
                best_trial=chosen[0] if chosen else None,
                untrained=before,
                trained=trained,
                recovery=recovery(before, trained, whole[1].test_score) if healed else None,  # type: ignore[arg-type,index]
                parameters=cut.parameters,
                saved=cut.removal.parameters,
            )
        )
    return rows


def choose(results: Sequence[tuple[int, TrialResult]]) -> tuple[int, TrialResult] | None:
    """The best trial by validation loss, never by test; the earlier one of equals."""
    scored = [item for item in results if math.isfinite(item[1].validation.loss)]
    return min(scored, key=lambda item: (item[1].validation.loss, item[0]), default=None)


HEADER = ("arm", "trials", "untrained", "trained", "share healed", "parameters saved")


def cells(row: Arm) -> tuple[str, ...]:
    """The row as text, under `HEADER`."""
    return (
        row.label,
        str(row.trials),
        number(row.untrained.perplexity),
        number(row.trained.perplexity) if row.trained else "-",
        f"{row.recovery:.0%}" if row.recovery is not None else "-",
        f"{_short(row.saved)} ({row.saved / (row.saved + row.parameters):.1%})"
        if row.saved
        else "-",
    )


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
    return "\n\n".join(["Perplexity on the test split.", table, *references(rows)]) + "\n"


def as_csv(rows: Sequence[Arm]) -> str:
    """The table as CSV, unrounded."""
    out = io.StringIO()
    dicts = [row.as_json() | {"layers": " ".join(map(str, row.layers))} for row in rows]
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
