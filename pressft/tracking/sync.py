"""Keep MLflow up to date: one idempotent write of a run, at once or from a background thread.

What a run should contain is a value (`runs.Run`), built from what is stored; `write` adds to the
run in MLflow whatever it lacks. So a sweep, the next sweep and the doctor all leave the same run,
with each point once, whatever the server did in between (law 9).
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from pressft.errors import DataError, PressftError
from pressft.report.status import Look
from pressft.score import recovery, total
from pressft.spec import WHOLE
from pressft.study.liveness import worker_name
from pressft.study.reader import Stored, is_dead
from pressft.study.results import Point, Store
from pressft.study.trials import Trial
from pressft.tracking import runs
from pressft.tracking.client import (
    OPEN,
    LoggedRun,
    NotFoundError,
    RejectedError,
    Tracker,
    UnreachableError,
)
from pressft.tracking.runs import Run

VERSION = runs.VERSION_TAG  # tag of a run that is complete in MLflow
OURS = ("fault", "pruned", "reused", VERSION)  # tags removed when they no longer hold
RECOVERY = "test/recovery"
INTERVAL_S = 0.5  # between two writes
FLUSH_TIMEOUT_S = 30.0  # for a server that does not answer, when all other work is done
SUMMARY_S = 30.0  # between two summaries, at least
FINAL_WRITE_S = 5.0  # to wait at the end for a write in progress
MAX_RETRY_WAIT_S = 15.0  # between two attempts to reach the server


@dataclass
class RemoteRun:
    """The part of a run that is known to be in MLflow."""

    run_id: str
    status: str
    tags: dict[str, str]
    points: set[tuple[str, int]]
    texts: dict[str, str] = field(default_factory=dict)
    has_folder: bool = False


def write(
    tracker: Tracker, experiment: str, question: str, run: Run, known: RemoteRun | None = None
) -> RemoteRun:
    """Create the run, or add whatever the existing one lacks. `known` saves reading the run first.

    Raises:
        UnreachableError, RejectedError, NotFoundError: from MLflow.
    """
    if known is None:
        known = _find_or_create(tracker, tracker.experiment(experiment, question), run)
    if known.tags.get(VERSION) == run.version != "":
        return known
    _mark_incomplete(tracker, known)
    if run.status in OPEN and known.status != run.status:
        tracker.set_status(known.run_id, run.status)
    _log(tracker, run.points, known)
    _tag(tracker, run, known)
    if texts := {n: text for n, text in run.texts.items() if known.texts.get(n) != text}:
        tracker.texts(known.run_id, texts)
        known.texts |= texts
    if run.folder and not known.has_folder:
        tracker.files(known.run_id, run.folder)
        known.has_folder = True
    if run.status not in OPEN:
        tracker.set_status(known.run_id, run.status, run.ended)
    known.status = run.status
    if run.version:
        tracker.tag(known.run_id, {VERSION: run.version})
        known.tags[VERSION] = run.version
    return known


def rewrite(tracker: Tracker, experiment: str, question: str, run: Run) -> None:
    """`write` after reading the whole run, even if its version tag says that it is complete."""
    known = _find_or_create(tracker, tracker.experiment(experiment, question), run)
    _mark_incomplete(tracker, known)
    write(tracker, experiment, question, run, known)


def _mark_incomplete(tracker: Tracker, known: RemoteRun) -> None:
    """Remove the version tag of a run, until the change that follows is written."""
    if known.tags.pop(VERSION, None):
        tracker.untag(known.run_id, [VERSION])


def _find_or_create(tracker: Tracker, experiment: str, run: Run) -> RemoteRun:
    """The run of a record in MLflow, created if there is none; duplicates, which two processes may
    create at the same time, are deleted."""
    found = tracker.find_runs(experiment, run.record)
    if not found:
        tracker.create(experiment, run)
        found = tracker.find_runs(experiment, run.record)
    first, *others = found
    for other in others:
        tracker.delete(other.run_id)
    return RemoteRun(first.run_id, first.status, dict(first.tags), tracker.points(first.run_id))


def _log(tracker: Tracker, points: Iterable[Point], known: RemoteRun) -> None:
    """Log the metrics that are missing."""
    new: list[Point] = []
    for point in points:
        missing = {k: v for k, v in point.metrics.items() if (k, point.tokens) not in known.points}
        if missing:
            new.append(point._replace(metrics=missing))
            known.points |= {(key, point.tokens) for key in missing}
    tracker.log(known.run_id, new)


def _tag(tracker: Tracker, run: Run, known: RemoteRun) -> None:
    """Set the tags that differ, and remove those of ours that no longer hold."""
    gone = [name for name in OURS if name in known.tags and name not in run.tags]
    tracker.untag(known.run_id, gone)
    tracker.tag(known.run_id, {k: v for k, v in run.tags.items() if known.tags.get(k) != v})
    known.tags = {k: v for k, v in known.tags.items() if k not in gone} | dict(run.tags)


def unsynced(stored: Stored, logged: Sequence[LoggedRun]) -> list[Trial]:
    """The trials whose runs are missing, incomplete or outdated in MLflow. Running trials and those
    of other live processes are left out: those processes write them."""
    versions = {run.record: run.tags.get(VERSION) for run in logged}
    return [
        trial
        for trial in runs.with_run(stored.trials)
        if versions.get(str(trial.attrs["record"])) != runs.state(trial)
        and (trial.worker == worker_name() or is_dead(trial))
        and trial.state != "running"
    ]


def study(tracker: Tracker, seen: Look, store: Store, say: Callable[[str], None]) -> int:
    """Write all runs of a stored study that MLflow lacks, and return their number. `say` is called
    for each trial that cannot be shown; the others are written all the same.

    Raises:
        UnreachableError, NotFoundError: from MLflow.
    """
    found = seen.found
    name = runs.experiment(found.name)
    experiment = tracker.experiment(name, found.question)
    n = 0
    for trial in unsynced(found, tracker.runs(experiment, found.name)):
        try:
            write(tracker, name, found.question, runs.of_trial(found, trial, store))
            n += 1
        except (RejectedError, DataError) as error:
            say(f"trial {trial.number} ({trial.arm}) cannot be shown in MLflow: {error}")
    log_recoveries(tracker, experiment, seen)
    return n


def log_recoveries(tracker: Tracker, experiment: str, seen: Look) -> int:
    """Log the share of the damage that each cut run healed, relative to the best trained whole
    model; a value that has changed is logged again. Return the number of values logged.

    Raises:
        UnreachableError, RejectedError, NotFoundError: from MLflow.
    """
    shares = recovery_by_record(seen)
    n = 0
    for run in tracker.runs(experiment, seen.found.name) if shares else ():
        share = shares.get(run.record)
        if share and run.metrics.get(RECOVERY) != share.metrics[RECOVERY]:
            tracker.log(run.run_id, [share])
            n += 1
    return n


def recovery_by_record(seen: Look) -> dict[str, Point]:
    """The share of the damage healed, by record, for every complete trial of a cut arm; empty until
    the whole model is trained."""
    whole = seen.chosen.get(WHOLE)
    if not whole:
        return {}
    best = total(score for trial in whole for score in trial.result.test).loss
    found = {}
    for trial in seen.found.trials:
        attrs, cut = trial.attrs, seen.untrained.get(trial.arm)
        if trial.state == "complete" and cut and trial.arm != WHOLE and "test_loss" in attrs:
            share = recovery(total(cut.test).loss, float(attrs["test_loss"]), best)
            if share is not None:
                point = Point(trial.spec.trained_tokens, {RECOVERY: share}, int(attrs["ended"]))
                found[str(attrs["record"])] = point
    return found


class Sync:
    """A thread that keeps MLflow up to date for the length of a `with` block.

    A server that is down, slow or restarted does not delay training: what it did not accept is
    written when it answers, by this process, the next sweep or the doctor.
    """

    def __init__(
        self,
        tracker: Tracker,
        experiment: str,
        question: str,
        say: Callable[[str], None],
        summarize: Callable[[], object] = lambda: None,
    ) -> None:
        """Prepare the thread; `summarize` is called from time to time, when nothing is pending."""
        self._tracker, self._say, self._summarize = tracker, say, summarize
        self._experiment, self._question = experiment, question
        self._pending: dict[str, Run] = {}  # by record; a later state replaces an earlier one
        self._known: dict[str, RemoteRun] = {}
        self._lock = threading.Lock()  # held while writing, by the thread or by `flush`
        self._pending_lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._unreachable = False

    def __enter__(self) -> "Sync":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop after a last write; what is still pending then is left to the next sweep."""
        self._ended.set()
        if not self._unreachable and self._lock.acquire(timeout=FINAL_WRITE_S):
            try:
                self._write_pending()
            finally:
                self._lock.release()

    def submit(self, run: Run) -> None:
        """Let the thread write this state of a run; returns at once."""
        with self._pending_lock:
            self._pending[run.record] = run

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> int:
        """Write the pending runs for at most `timeout_s` seconds; return how many are left."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._write_pending()
            if not self._pending or time.monotonic() > deadline:
                return len(self._pending)
            self._ended.wait(min(INTERVAL_S, 0.1))

    def paused(self) -> AbstractContextManager[object]:
        """A lock under which the thread writes nothing."""
        return self._lock

    def _work(self) -> None:
        pause, next_summary = INTERVAL_S, time.monotonic() + SUMMARY_S
        while not self._ended.wait(pause):
            with self._lock:
                answered = self._write_pending()
                if answered and time.monotonic() > next_summary:
                    began = time.monotonic()
                    self._summary()
                    next_summary = time.monotonic() + max(
                        SUMMARY_S, 20 * (time.monotonic() - began)
                    )
            pause = INTERVAL_S if answered else min(MAX_RETRY_WAIT_S, pause * 2)

    def _summary(self) -> None:
        """Write a summary; the thread continues even if that fails."""
        try:
            self._summarize()
        except PressftError:
            return  # a server or database is unreachable: retried later
        except Exception as error:
            self._say(f"the summary could not be written: {type(error).__name__}: {error}")

    def _write_pending(self) -> bool:
        """Write all pending runs, and return whether the server answered."""
        with self._pending_lock:
            pending = list(self._pending.items())
        for record, run in pending:
            try:
                self._write(record, run)
            except UnreachableError as error:
                if not self._unreachable:
                    self._say(f"{error}; training continues, MLflow is updated when it answers")
                self._unreachable = True
                return False
        if self._unreachable:
            self._say("MLflow answers again")
        self._unreachable = False
        return True

    def _write(self, record: str, run: Run) -> None:
        known = self._known.pop(record, None)  # read again after an error
        try:
            try:
                known = write(self._tracker, self._experiment, self._question, run, known)
            except NotFoundError:  # it was deleted: create it again
                self._tracker.forget_experiments()
                known = write(self._tracker, self._experiment, self._question, run)
        except (RejectedError, NotFoundError, OSError, ValueError) as error:
            self._say(f"{record} cannot be written to MLflow: {error}")
        else:
            if run.status in OPEN:
                self._known[record] = known
        with self._pending_lock:  # a state submitted meanwhile stays pending
            if self._pending.get(record) is run:
                del self._pending[record]
