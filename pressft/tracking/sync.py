"""MLflow kept up to date: one idempotent write of a run, by a thread beside the work or at once.

What a run is to show is a value (`runs.Run`), made of what is stored; `write` brings the run in
MLflow to it, and changes nothing that is there already. So whoever writes, a sweep, the next one
or the doctor, leaves the same run, each point once, whatever the server did meanwhile (law 9).
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
from pressft.tracking.client import OPEN, AwayError, GoneError, RejectedError, Shown, Tracker
from pressft.tracking.runs import Run

VERSION = "pressft.version"  # tag of a run whose content is all there
OURS = ("fault", "pruned", "reused", VERSION)  # tags that go when the run is no longer so
RECOVERY = "test/recovery"
ROUND_S = 0.5  # between two rounds of writing
PATIENCE_S = 30.0  # with a server that does not answer, when all else is done
SUMMARY_S = 30.0  # between two summaries, at least
LAST_S = 5.0  # for what is being written when the work ends
AWAY_S = 15.0  # between two tries of a server that does not answer, at most


@dataclass
class Known:
    """What is known to be in MLflow of a run."""

    run_id: str
    status: str
    tags: dict[str, str]
    points: set[tuple[str, int]]
    texts: dict[str, str] = field(default_factory=dict)
    has_folder: bool = False


def write(
    tracker: Tracker, experiment: str, question: str, run: Run, known: Known | None = None
) -> Known:
    """Bring a run to what it is to show; the one there is, or a new one. `known` spares asking
    what is there already.

    Raises:
        AwayError, RejectedError, GoneError: as MLflow answers.
    """
    if known is None:
        known = _find(tracker, tracker.experiment(experiment, question), run)
    if known.tags.get(VERSION) == run.version != "":
        return known
    if VERSION in known.tags:  # it changes: until it is written it is not all there
        tracker.untag(known.run_id, [VERSION])
        del known.tags[VERSION]
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
    """`write`, but looking at all of a run, also where it says that all of it is there."""
    known = _find(tracker, tracker.experiment(experiment, question), run)
    if VERSION in known.tags:
        tracker.untag(known.run_id, [VERSION])
        del known.tags[VERSION]
    write(tracker, experiment, question, run, known)


def _find(tracker: Tracker, experiment: str, run: Run) -> Known:
    """The run in MLflow that shows a record; two that were made at once are one again."""
    found = tracker.showing(experiment, run.record)
    if not found:
        tracker.create(experiment, run)
        found = tracker.showing(experiment, run.record)
    first, *others = found
    for other in others:
        tracker.drop(other.run_id)
    return Known(first.run_id, first.status, dict(first.tags), tracker.points(first.run_id))


def _log(tracker: Tracker, points: Iterable[Point], known: Known) -> None:
    """Log the numbers that are not there."""
    new: list[Point] = []
    for point in points:
        lacking = {k: v for k, v in point.metrics.items() if (k, point.tokens) not in known.points}
        if lacking:
            new.append(point._replace(metrics=lacking))
            known.points |= {(key, point.tokens) for key in lacking}
    tracker.log(known.run_id, new)


def _tag(tracker: Tracker, run: Run, known: Known) -> None:
    """Set the tags that differ, and remove those of ours that are no longer so."""
    gone = [name for name in OURS if name in known.tags and name not in run.tags]
    tracker.untag(known.run_id, gone)
    tracker.tag(known.run_id, {k: v for k, v in run.tags.items() if known.tags.get(k) != v})
    known.tags = {k: v for k, v in known.tags.items() if k not in gone} | dict(run.tags)


def lacking(found: Stored, shown: Sequence[Shown]) -> list[Trial]:
    """The trials whose runs are not all in MLflow, or not as they are stored; those left out that
    a live process works on, or worked on last: it writes them itself."""
    there = {run.record: run.tags.get(VERSION) for run in shown}
    return [
        trial
        for trial in runs.shown(found.trials)
        if there.get(str(trial.attrs["record"])) != runs.state(trial)
        and (trial.worker == worker_name() or is_dead(trial))
        and trial.state != "running"
    ]


def study(tracker: Tracker, seen: Look, store: Store, say: Callable[[str], None]) -> int:
    """Write all that MLflow lacks of a stored study's trials; how many runs that were. `say` hears
    of those that cannot be shown, which stand in nobody's way.

    Raises:
        AwayError, GoneError: as MLflow answers.
    """
    found = seen.found
    name = runs.experiment(found.name)
    experiment = tracker.experiment(name, found.question)
    n = 0
    for trial in lacking(found, tracker.runs(experiment, found.name)):
        try:
            write(tracker, name, found.question, runs.of_trial(found, trial, store))
            n += 1
        except (RejectedError, DataError) as error:
            say(f"trial {trial.number} ({trial.arm}) cannot be shown in MLflow: {error}")
    recoveries(tracker, experiment, seen)
    return n


def recoveries(tracker: Tracker, experiment: str, seen: Look) -> int:
    """Log what each cut run healed, measured against the best trained whole model; a value that has
    changed with the study follows the old one. How many were logged.

    Raises:
        AwayError, RejectedError, GoneError: as MLflow answers.
    """
    shares = healed(seen)
    n = 0
    for run in tracker.runs(experiment, seen.found.name) if shares else ():
        share = shares.get(run.record)
        if share and run.metrics.get(RECOVERY) != share.metrics[RECOVERY]:
            tracker.log(run.run_id, [share])
            n += 1
    return n


def healed(seen: Look) -> dict[str, Point]:
    """Share of the damage healed, by record, of every complete trial of a cut arm, once the whole
    model is trained."""
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
    """A thread that keeps MLflow up to date, for the length of a `with` block.

    A server that is down, slow or restarted costs no step of the work: what it did not take is
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
        """Write nothing yet; `summarize` is called now and then, when all else is written."""
        self._tracker, self._say, self._summarize = tracker, say, summarize
        self._experiment, self._question = experiment, question
        self._wanted: dict[str, Run] = {}  # by record: only the last state counts
        self._known: dict[str, Known] = {}
        self._turn = threading.Lock()  # of the thread, or of one who flushes
        self._guard = threading.Lock()  # of what is wanted
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._away = False

    def __enter__(self) -> "Sync":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, after a last round; what is not written then is left to the next sweep."""
        self._over.set()
        if not self._away and self._turn.acquire(timeout=LAST_S):
            try:
                self._round()
            finally:
                self._turn.release()

    def show(self, run: Run) -> None:
        """Let MLflow show this state of a run, soon; returns at once."""
        with self._guard:
            self._wanted[run.record] = run

    def flush(self, patience_s: float = PATIENCE_S) -> int:
        """Write all that is wanted now, for so many seconds at most; how many runs still lack."""
        deadline = time.monotonic() + patience_s
        while True:
            with self._turn:
                self._round()
            if not self._wanted or time.monotonic() > deadline:
                return len(self._wanted)
            self._over.wait(min(ROUND_S, 0.1))

    def paused(self) -> AbstractContextManager[object]:
        """Within it the thread writes nothing."""
        return self._turn

    def _work(self) -> None:
        pause, rest = ROUND_S, time.monotonic() + SUMMARY_S
        while not self._over.wait(pause):
            with self._turn:
                answered = self._round()
                if answered and time.monotonic() > rest:
                    began = time.monotonic()
                    self._summary()
                    rest = time.monotonic() + max(SUMMARY_S, 20 * (time.monotonic() - began))
            pause = ROUND_S if answered else min(AWAY_S, pause * 2)

    def _summary(self) -> None:
        """Whatever comes of it, writing goes on."""
        try:
            self._summarize()
        except PressftError:
            return  # a server or database is away: later
        except Exception as error:
            self._say(f"the summary cannot be shown now: {type(error).__name__}: {error}")

    def _round(self) -> bool:
        """Write what is wanted; whether the server answered."""
        with self._guard:
            wanted = list(self._wanted.items())
        for record, run in wanted:
            try:
                self._write(record, run)
            except AwayError as error:
                if not self._away:
                    self._say(f"{error}; the work goes on, MLflow is told when it answers")
                self._away = True
                return False
        if self._away:
            self._say("MLflow answers again")
        self._away = False
        return True

    def _write(self, record: str, run: Run) -> None:
        known = self._known.pop(record, None)  # asked for again, unless all goes well
        try:
            try:
                known = write(self._tracker, self._experiment, self._question, run, known)
            except GoneError:  # deleted meanwhile: made anew
                self._tracker.forget()
                known = write(self._tracker, self._experiment, self._question, run)
        except (RejectedError, GoneError, OSError, ValueError) as error:
            self._say(f"{record} cannot be shown: {error}")
        else:
            if run.status in OPEN:
                self._known[record] = known
        with self._guard:  # or a state that came meanwhile would be lost
            if self._wanted.get(record) is run:
                del self._wanted[record]
