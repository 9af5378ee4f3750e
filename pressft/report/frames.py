"""A stored study as pandas DataFrames, for notebooks; the numbers are those of its finding."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pressft.report import status, tables
from pressft.report.finding import Finding, tested
from pressft.report.stats import perplexity as perplexity_interval
from pressft.score import recovery, total
from pressft.spec import WHOLE
from pressft.study.locations import Locations
from pressft.study.results import Store, TrialResult
from pressft.study.trials import Trial

if TYPE_CHECKING:
    import pandas


def finding(study: str, root: str | Path = "mlruns", storage: str | None = None) -> Finding:
    """What a study under `root` found, as far as it is; `storage` is the URL of Optuna's storage
    where that is not SQLite under `root`.

    Raises:
        UsageError: no such study.
        MissingError: the storage cannot be opened.
    """
    return status.finding(study, Locations(Path(root), storage))


def arms(study: str, root: str | Path = "mlruns", storage: str | None = None) -> "pandas.DataFrame":
    """One row an arm of the finding, the whole model first: what is removed, perplexities of the
    test split before and after training with the ends of their intervals, parameters and cost.

    Raises:
        As `finding`.
    """
    import pandas

    found = finding(study, root, storage)
    return pandas.DataFrame([tables.flattened(_ends(arm.as_json())) for arm in found.arms])


def trials(
    study: str, root: str | Path = "mlruns", storage: str | None = None
) -> "pandas.DataFrame":
    """One row a trial by number, whatever its state: arm, varied settings, validation loss in nats
    a token; of a complete one the perplexity of the test split with the ends of its interval over
    the documents, bits per byte, share of the damage healed, tokens trained on, seconds and cell;
    of another the reason.

    Raises:
        As `finding`.
    """
    import pandas

    locations = Locations(Path(root), storage)
    seen, store = status.look(study, locations), Store(locations.root)
    rows = []
    for trial in sorted(seen.found.trials, key=lambda trial: trial.number):
        result = store.trial(trial.cell) if trial.state == "complete" else None
        rows.append(_settings(trial) | (_scores(seen, trial.arm, result) if result else {}))
    names = dict.fromkeys(name for row in rows for name in row)
    last = ("cell", "reason")
    return pandas.DataFrame(rows, columns=[*(name for name in names if name not in last), *last])


def _settings(trial: Trial) -> dict[str, Any]:
    """What a trial is, and how far."""
    varied = {name: value for name, value in trial.params.items() if name != "remove"}
    return {
        "number": trial.number,
        "arm": trial.arm,
        "state": trial.state,
        **varied,
        "validation_loss": trial.value,
        "trained_tokens": trial.tokens,
        "cell": trial.cell,
        "reason": trial.attrs.get("fault") or trial.attrs.get("pruned") or "",
    }


def _scores(seen: status.Look, arm: str, result: TrialResult) -> dict[str, Any]:
    """What a trial scored."""
    score, ends = result.test_score, perplexity_interval([result.test])
    cut, whole = seen.untrained.get(arm), seen.chosen.get(WHOLE)
    healed = None
    if arm != WHOLE and cut and whole:
        healed = recovery(total(cut.test).loss, score.loss, tested(whole).loss)
    return {
        "perplexity": score.perplexity,
        "perplexity_low": ends.low,
        "perplexity_high": ends.high,
        "bits_per_byte": score.bits_per_byte,
        "share_healed": healed,
        "trained_tokens": result.tokens,
        "seconds": result.total_s,
    }


def _ends(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a finding with each interval as two numbers, and its layers as `remove` has them."""
    split: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith("_interval"):
            low, high = value or (None, None)
            stem = name.removesuffix("_interval")
            split |= {f"{stem}_low": low, f"{stem}_high": high}
        else:
            split[name] = ",".join(map(str, value)) if name == "layers" else value
    return split
