"""Find and repair disagreements between Optuna, MLflow and the files.

Optuna's storage and the files are the truth (law 9); MLflow is a projection that can be rebuilt
from them, in part or as a whole.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pressft.errors import DataError
from pressft.report import status
from pressft.report.status import Look
from pressft.study import reader, storage
from pressft.study.locations import Locations
from pressft.study.results import Store
from pressft.study.scans import Scan
from pressft.study.trials import Trial
from pressft.tracking import client, runs, summary, sync
from pressft.tracking.client import STORE, SUMMARY, LoggedRun, Tracker
from pressft.training import checkpoint


@dataclass(frozen=True, slots=True)
class Fault:
    """A disagreement in words; `mend` repairs it, and is None if only a new sweep can."""

    study: str
    what: str
    mend: Callable[[], None] | None = None


def examine(locations: Locations) -> Iterator[Fault]:
    """Yield every disagreement about the studies in the storage.

    Raises:
        MissingError: a store cannot be opened, or MLflow does not answer.
    """
    if old := list(_tables(locations)):
        yield from old
        if any(True for _ in _tables(locations)):
            return  # nothing else can be read
    tracker = Tracker(locations.root, locations.tracking_uri)
    for name in reader.names(locations.storage):
        yield from _trials(name, locations)
        yield from _runs(name, tracker, locations)
    yield from _scans(tracker, locations)
    if any(locations.root.glob("outbox/*")):
        what = "outbox/ holds records of an earlier version, which are no longer used"
        yield Fault("outbox", what, partial(shutil.rmtree, locations.root / "outbox"))


def mended(fault: Fault) -> bool:
    """Repair a fault, and return whether that was possible."""
    if fault.mend:
        fault.mend()
    return fault.mend is not None


def backup(locations: Locations) -> Path:
    """Copy the local databases into a new folder, and return it."""
    folder = locations.root / f"backup-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True)
    for name in ("optuna.db", STORE):
        source = locations.root / name
        if source.is_file():
            try:
                with (
                    closing(sqlite3.connect(source)) as old,
                    closing(sqlite3.connect(folder / name)) as new,
                ):
                    old.backup(new)  # consistent, even while other processes write
            except sqlite3.DatabaseError:  # damaged: kept as it is
                shutil.copy(source, folder / name)
    return folder


def rebuild(locations: Locations, say: Callable[[str], None]) -> None:
    """Rebuild the local MLflow store: a run for every trial, a summary for every study, the scans.

    Raises:
        MissingError: MLflow does not answer.
    """
    (locations.root / STORE).unlink(missing_ok=True)
    tracker = Tracker(locations.root, locations.tracking_uri)
    for name in reader.names(locations.storage):
        n = sync.study(tracker, status.look(name, locations), Store(locations.root), say)
        if runs.experiment(name) == name:
            summary.write(tracker, name, locations)
        say(f"{name}: {n} runs")
    for fault in _scans(tracker, locations):
        mended(fault)


def _tables(locations: Locations) -> Iterator[Fault]:
    """Yield the databases that were written by an older Optuna or MLflow."""
    for name, mend in (
        ("Optuna", storage.outdated(locations.storage)),
        ("MLflow", client.outdated(locations.root)),
    ):
        if mend:
            yield Fault("storage", f"the tables are those of an older {name}", mend)


def _trials(name: str, locations: Locations) -> Iterator[Fault]:
    """Compare Optuna's storage with the running processes and the files."""
    store = Store(locations.root)
    for trial in status.find(name, locations).trials:
        named = f"trial {trial.number} ({trial.arm})"
        if trial.state == "running" and reader.is_dead(trial):
            what = f"{named} is running, but its process is dead"
            yield Fault(name, what, partial(_end, name, locations, trial))
        if trial.state != "complete":
            continue
        if store.trial(trial.cell) is None:
            folder = store.folder(trial.cell)
            yield Fault(name, f"{named} is complete, but its result is missing: {folder}")
        elif not (store.folder(trial.cell) / "adapter" / "adapter_model.safetensors").is_file():
            yield Fault(name, f"{named} is complete, but its adapter is missing")
        left = store.folder(trial.cell) / "checkpoints"
        if left.is_dir():
            what = f"{named} is complete, but its checkpoints still take up disk space"
            yield Fault(name, what, partial(shutil.rmtree, left))


def _end(name: str, locations: Locations, trial: Trial) -> None:
    """Close a trial whose process is dead, and keep the curve that its checkpoints hold."""
    store = Store(locations.root)
    if "record" in trial.attrs:
        curve = checkpoint.curve(store.folder(trial.cell) / "checkpoints")
        store.save_curve(trial.cell, str(trial.attrs["record"]), curve)
    reader.end(name, locations.storage, trial.number)


def _runs(name: str, tracker: Tracker, locations: Locations) -> Iterator[Fault]:
    """Compare the runs of a study in MLflow with Optuna's storage and the files."""
    seen, store = status.look(name, locations), Store(locations.root)
    found = seen.found
    experiment = tracker.experiment(runs.experiment(name), found.question)
    known: dict[str, LoggedRun] = {}
    for run in tracker.runs(experiment, name):
        if known.setdefault(run.record, run) is not run:
            what = f"run {run.run_id} in MLflow is a second run of trial {run.trial}"
            yield Fault(name, what, partial(tracker.delete, run.run_id))
    behind = {trial.number for trial in sync.unsynced(found, list(known.values()))}
    for trial in runs.with_run(found.trials):
        shown = known.pop(str(trial.attrs["record"]), None)
        if trial.number in behind or (shown and trial.state == "complete"):
            yield from _run(trial, shown, seen, tracker, store)
    for run in known.values():
        yield Fault(name, f"run {run.run_id} in MLflow belongs to no trial")
    single = runs.experiment(name) != name
    if single or found.running:
        return  # it has none, or it is being written
    shown_summary = tracker.find_runs(experiment, f"{name}-{SUMMARY}")
    what = "" if shown_summary else "the study has no summary in MLflow"
    if shown_summary and shown_summary[0].tags.get(sync.VERSION) != summary.version(found):
        what = "the summary in MLflow is older than the trials"
    if what:
        yield Fault(name, what, partial(_summarize, tracker, seen, experiment, locations))


def _summarize(tracker: Tracker, seen: Look, experiment: str, locations: Locations) -> None:
    """Write what only a whole study tells: the shares healed, and the summary."""
    sync.log_recoveries(tracker, experiment, seen)
    summary.write(tracker, seen.found.name, locations)


def _run(
    trial: Trial, shown: LoggedRun | None, seen: Look, tracker: Tracker, store: Store
) -> Iterator[Fault]:
    """Compare the run of a trial with what it should contain."""
    found, named = seen.found, f"trial {trial.number} ({trial.arm})"
    try:
        run = runs.of_trial(found, trial, store)
    except DataError as error:
        yield Fault(found.name, f"{named} cannot be written to MLflow: {error}")
        return
    what = f"{named} has no run in MLflow"
    if shown:
        wanted = {(key, point.tokens) for point in run.points for key in point.metrics}
        missing = len(wanted - tracker.points(shown.run_id))
        whole = shown.status == run.status and shown.tags.get(sync.VERSION) == run.version
        if whole and not missing:
            return
        what = f"{named}: its run is {shown.status}, {missing} points missing"
        if shown.status == run.status and not missing:
            what = f"{named}: its run differs from the stored trial"
    experiment = runs.experiment(found.name)
    mend = partial(sync.rewrite, tracker, experiment, found.question, run)
    yield Fault(found.name, what, mend)


def _scans(tracker: Tracker, locations: Locations) -> Iterator[Fault]:
    """Yield the stored scans that are missing or outdated in MLflow."""
    for path in sorted(locations.root.glob("scans/*.json")):
        run = runs.of_scan(Scan.from_json(path.read_text()), path.stem)
        shown = tracker.find_runs(tracker.experiment(runs.SCANS, runs.SCAN_QUESTION), run.record)
        if not shown or shown[0].tags.get(sync.VERSION) != run.version:
            mend = partial(sync.rewrite, tracker, runs.SCANS, runs.SCAN_QUESTION, run)
            yield Fault(runs.SCANS, f"{path} is not in MLflow", mend)
