"""Where Optuna, MLflow and the files disagree, and how that is mended.

Optuna's storage and the files are the truth (law 9); MLflow is a projection, of which any part, or
all of it, can be made anew from them.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pressft import projection, runs, status, study
from pressft.results import Store
from pressft.status import Stores
from pressft.study import Row, Stored
from pressft.tracking import STORE, Curve, Tracker


@dataclass(frozen=True, slots=True)
class Fault:
    """A disagreement in words; `mend` ends it, None where only a new sweep can."""

    study: str
    what: str
    mend: Callable[[], None] | None = None


def examine(stores: Stores) -> Iterator[Fault]:
    """Every disagreement of the studies in the storage.

    Raises:
        MissingError: a store cannot be opened.
    """
    tracker = Tracker(stores.root, stores.tracking_uri)
    for name in study.names(stores.storage):
        yield from _trials(name, stores)
        yield from _runs(name, stores, tracker)


def mended(fault: Fault) -> bool:
    """Mend it, if that can be."""
    if fault.mend:
        fault.mend()
    return fault.mend is not None


def backup(stores: Stores) -> Path:
    """Copies of the local databases, as they are now, in a folder of their own."""
    folder = stores.root / f"backup-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True)
    for name in ("optuna.db", STORE):
        source = stores.root / name
        if source.is_file():
            with (
                closing(sqlite3.connect(source)) as old,
                closing(sqlite3.connect(folder / name)) as new,
            ):
                old.backup(new)  # whole, also while others write
    return folder


def rebuild(stores: Stores, say: Callable[[str], None]) -> None:
    """The whole local MLflow view anew: every complete trial a run, every study a summary."""
    path = stores.root / STORE
    path.unlink(missing_ok=True)
    tracker = Tracker(stores.root, stores.tracking_uri)
    for name in study.names(stores.storage):
        found = status.find(name, stores)
        experiment = tracker.experiment(_experiment(name), found.question)
        done = [row for row in found.rows if row.state == "complete"]
        for row in done:
            _project(tracker, experiment, name, found, row, stores)
        if _experiment(name) == name:
            projection.show_study(tracker, experiment, name, stores)
        say(f"{name}: {len(done)} runs")


def _experiment(name: str) -> str:
    """Single runs share an experiment."""
    return "runs" if name.startswith("run-") else name


def _trials(name: str, stores: Stores) -> Iterator[Fault]:
    """Optuna against processes and files."""
    store = Store(stores.root)
    for row in status.find(name, stores).rows:
        trial = f"trial {row.number} ({row.arm})"
        if row.state == "running" and study.is_dead(row):
            yield Fault(
                name,
                f"{trial} is running, but its process is gone",
                partial(study.end, name, stores.storage, row.number),
            )
        cell = str(row.attrs.get("cell", ""))
        if row.state != "complete":
            continue
        if store.trial(cell) is None:
            yield Fault(name, f"{trial} is complete, but its result is gone: {store.folder(cell)}")
        elif not (store.folder(cell) / "adapter" / "adapter_model.safetensors").is_file():
            yield Fault(name, f"{trial} is complete, but its adapter is gone")
        left = store.folder(cell) / "checkpoints"
        if left.is_dir():
            yield Fault(
                name,
                f"{trial} is complete, but its checkpoints take room",
                partial(shutil.rmtree, left),
            )


def _runs(name: str, stores: Stores, tracker: Tracker) -> Iterator[Fault]:
    """MLflow against Optuna and the files."""
    found = status.find(name, stores)
    store = Store(stores.root)
    experiment = tracker.experiment(_experiment(name), found.question)
    known = {run.trial: run for run in tracker.runs(experiment, name)}
    for row in found.rows:
        run = known.pop(row.number, None)
        trial = f"trial {row.number} ({row.arm})"
        result = store.trial(str(row.attrs.get("cell", "")))
        if row.state != "complete":
            if run and run.status == "RUNNING" and row.state != "running":
                what = f"{trial} is over, but its run is still running in MLflow"
                yield Fault(name, what, partial(tracker.finish, run.run_id, "KILLED"))
        elif result and run is None:
            mend = partial(_project, tracker, experiment, name, found, row, stores)
            yield Fault(name, f"{trial} has no run in MLflow", mend)
        elif result and run:
            points = tracker.points(run.run_id)
            wanted = {(key, at) for at, metrics in result.curve for key in metrics}
            if run.status != "FINISHED" or wanted - points:
                what = f"{trial}: its run is {run.status}, {len(wanted - points)} points missing"
                curve = Curve(tracker, run.run_id, points)
                yield Fault(name, what, partial(_complete, tracker, curve, row, stores))
    for run in known.values():
        yield Fault(name, f"run {run.run_id} in MLflow belongs to no trial")


def _project(
    tracker: Tracker, experiment: str, name: str, found: Stored, row: Row, stores: Stores
) -> None:
    """Make a complete trial's run anew."""
    cut = Store(stores.root).untrained(str(row.attrs["untrained"]))
    if cut is None:
        return
    spec = found.spec(row)
    tags = {
        "study": name,
        "arm": row.arm,
        "trial": row.number,
        "cell": row.attrs["cell"],
        "corpus": found.corpus,
        "rebuilt": "true",
    }
    run_id = tracker.start(experiment, runs.name(spec), runs.params(spec, cut), tags, [])
    _complete(tracker, Curve(tracker, run_id), row, stores)


def _complete(tracker: Tracker, curve: Curve, row: Row, stores: Stores) -> None:
    """Give a complete trial's run what it lacks."""
    store = Store(stores.root)
    result = store.trial(str(row.attrs["cell"]))
    cut = store.untrained(str(row.attrs["untrained"]))
    if result and cut:
        projection.show_trial(tracker, curve, result, cut, store)
