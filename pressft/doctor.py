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

from pressft.report import status
from pressft.study import reader, storage
from pressft.study.locations import Locations
from pressft.study.reader import Stored
from pressft.study.results import Store
from pressft.study.trials import Trial
from pressft.tracking import client, outbox, projection, runs
from pressft.tracking.client import STORE, SUMMARY, AwayError, Run, Tracker
from pressft.tracking.outbox import Record
from pressft.tracking.sender import PATIENCE_S, Sender


@dataclass(frozen=True, slots=True)
class Fault:
    """A disagreement in words; `mend` ends it, None where only a new sweep can."""

    study: str
    what: str
    mend: Callable[[], None] | None = None


def examine(locations: Locations) -> Iterator[Fault]:
    """Every disagreement of the studies in the storage.

    Raises:
        MissingError: a store cannot be opened, MLflow does not answer.
    """
    if old := list(_tables(locations)):
        yield from old
        if any(True for _ in _tables(locations)):
            return  # nothing else can be read
    shower = _Shower(locations)
    yield from _outbox(locations, shower)
    for name in reader.names(locations.storage):
        yield from _trials(name, locations)
        yield from _runs(name, shower)


def mended(fault: Fault) -> bool:
    """Mend it, if that can be."""
    if fault.mend:
        fault.mend()
    return fault.mend is not None


def backup(locations: Locations) -> Path:
    """Copies of the local databases, as they are now, in a folder of their own."""
    folder = locations.root / f"backup-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True)
    for name in ("optuna.db", STORE):
        source = locations.root / name
        if source.is_file():
            with (
                closing(sqlite3.connect(source)) as old,
                closing(sqlite3.connect(folder / name)) as new,
            ):
                old.backup(new)  # whole, also while others write
    return folder


def rebuild(locations: Locations, say: Callable[[str], None]) -> None:
    """The whole local MLflow view anew: every complete trial a run, every study a summary.

    Raises:
        MissingError: MLflow does not answer.
    """
    (locations.root / STORE).unlink(missing_ok=True)
    shower = _Shower(locations)
    for name in reader.names(locations.storage):
        found = status.find(name, locations)
        done = [trial for trial in found.trials if trial.state == "complete"]
        for trial in done:
            shower.trial(name, found, trial)
        if _experiment(name) == name:
            projection.show_study(shower.tracker, name, locations)
        say(f"{name}: {len(done)} runs")


class _Shower:
    """What makes MLflow show what is true."""

    def __init__(self, locations: Locations) -> None:
        self.locations, self.store = locations, Store(locations.root)
        self.tracker = Tracker(locations.root, locations.tracking_uri)
        self.sender = Sender(self.tracker, locations.outbox, lambda _: None)

    def flush(self, *names: str) -> None:
        """Send records, or say that it cannot be done now."""
        if left := self.sender.flush(names, PATIENCE_S):
            raise AwayError(f"MLflow does not take {len(left)} records: start its server first")

    def send(self, *names: str) -> None:
        """Send what processes left that are gone."""
        for name in names:
            Record(self.locations.outbox, name).abandon()
        self.flush(*names)

    def trial(self, name: str, found: Stored, trial: Trial) -> None:
        """A complete trial's run: all of it, or what it lacks."""
        result = self.store.trial(trial.cell)
        cut = self.store.untrained(str(trial.attrs["untrained"]))
        if result is None or cut is None:
            return
        tags = runs.tags(name, trial.arm, trial.number, trial.cell, found.corpus)
        tags["rebuilt"] = "true"
        spec = trial.spec
        record = Record(
            self.locations.outbox, str(trial.attrs.get("record", f"{name}-{trial.number}"))
        )
        experiment = {"name": _experiment(name), "question": found.question}
        record.begin(experiment, runs.name(spec), runs.params(spec, cut), tags)
        projection.show_trial(record, result, cut, self.store)
        self.flush(record.name)


def _experiment(name: str) -> str:
    """Single runs share an experiment."""
    return "runs" if name.startswith("run-") else name


def _tables(locations: Locations) -> Iterator[Fault]:
    """Databases of an older Optuna or MLflow."""
    for name, mend in (
        ("Optuna", storage.outdated(locations.storage)),
        ("MLflow", client.outdated(locations.root)),
    ):
        if mend:
            yield Fault("storage", f"the tables are those of an older {name}", mend)


def _trials(name: str, locations: Locations) -> Iterator[Fault]:
    """Optuna against processes and files."""
    store = Store(locations.root)
    for trial in status.find(name, locations).trials:
        named = f"trial {trial.number} ({trial.arm})"
        if trial.state == "running" and reader.is_dead(trial):
            yield Fault(
                name,
                f"{named} is running, but its process is gone",
                partial(reader.end, name, locations.storage, trial.number),
            )
        cell = trial.cell
        if trial.state != "complete":
            continue
        if store.trial(cell) is None:
            yield Fault(name, f"{named} is complete, but its result is gone: {store.folder(cell)}")
        elif not (store.folder(cell) / "adapter" / "adapter_model.safetensors").is_file():
            yield Fault(name, f"{named} is complete, but its adapter is gone")
        left = store.folder(cell) / "checkpoints"
        if left.is_dir():
            yield Fault(
                name,
                f"{named} is complete, but its checkpoints take room",
                partial(shutil.rmtree, left),
            )


def _outbox(locations: Locations, shower: _Shower) -> Iterator[Fault]:
    """What MLflow has not been told, or would not hear."""
    busy = {
        str(trial.attrs.get("record"))
        for name in reader.names(locations.storage)
        for trial in status.find(name, locations).trials
        if trial.state == "running" and not reader.is_dead(trial)
    }
    names = [r.name for r in outbox.waiting(locations.outbox) if r.name not in busy]
    if names:
        mend = partial(shower.send, *names)
        yield Fault("outbox", f"{len(names)} records wait to be sent to MLflow", mend)
    for path in sorted(locations.outbox.glob("*.refused")):
        yield Fault("outbox", f"MLflow will not take {path}")


def _runs(name: str, shower: _Shower) -> Iterator[Fault]:
    """MLflow against Optuna and the files."""
    locations, tracker = shower.locations, shower.tracker
    found = status.find(name, locations)
    experiment = tracker.experiment(_experiment(name), found.question)
    known: dict[int, Run] = {}
    for run in tracker.runs(experiment, name):
        if known.setdefault(run.trial, run) is not run:
            what = f"run {run.run_id} in MLflow shows trial {run.trial} a second time"
            yield Fault(name, what, partial(tracker.drop, run.run_id))
    for trial in found.trials:
        yield from _run(name, found, trial, known.pop(trial.number, None), shower)
    for run in known.values():
        yield Fault(name, f"run {run.run_id} in MLflow belongs to no trial")
    if _experiment(name) == name and not tracker.showing(experiment, f"{name}-{SUMMARY}"):
        mend = partial(projection.show_study, tracker, name, locations)
        yield Fault(name, "it has no summary in MLflow", mend)


def _run(
    name: str, found: Stored, trial: Trial, run: Run | None, shower: _Shower
) -> Iterator[Fault]:
    """One run against its trial."""
    named = f"trial {trial.number} ({trial.arm})"
    result = shower.store.trial(trial.cell)
    if trial.state != "complete":
        if run and run.status in {"RUNNING", "SCHEDULED"} and not trial.is_open:
            what = f"{named} is over, but its run in MLflow is {run.status}"
            yield Fault(name, what, partial(shower.tracker.finish, run.run_id, "KILLED"))
    elif result:
        what = f"{named} has no run in MLflow"
        if run:
            wanted = {(key, at) for at, metrics in result.curve for key in metrics}
            missing = len(wanted - shower.tracker.points(run.run_id))
            ended = run.status == "FINISHED" and not missing
            what = "" if ended else f"{named}: its run is {run.status}, {missing} points missing"
        if what:
            yield Fault(name, what, partial(shower.trial, name, found, trial))
