"""Sending what waits in the outbox to MLflow, beside the work and never in its way.

A server that is down, slow or restarted costs no step: what it did not take waits in the outbox,
and is sent when it answers, by this process, the next one or the doctor; each point once.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pressft.errors import PressftError
from pressft.tracking import outbox
from pressft.tracking.client import AwayError, GoneError, Point, RejectedError, Tracker
from pressft.tracking.outbox import Data, Waiting

ROUND_S = 0.5  # between two looks into the outbox
PATIENCE_S = 30.0  # with a server that does not answer, when all else is done
ALSO_S = 30.0  # between two of what is done now and then, at least
LAST_S = 5.0  # for what is being sent when the work ends
AWAY_S = 15.0  # between two tries of a server that does not answer, at most
Event = Mapping[str, Any]


class Sender:
    """A thread that sends the records of a folder, for the length of a `with` block."""

    def __init__(
        self,
        tracker: Tracker,
        folder: Path,
        say: Callable[[str], None],
        also: Callable[[], object] = lambda: None,
    ) -> None:
        """Send nothing yet; `also` is done now and then, when all there is has been sent."""
        self._tracker, self._folder, self._say, self._also = tracker, folder, say, also
        self._turn = threading.Lock()  # of the thread, or of one who flushes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._known: dict[str, tuple[int, set[tuple[str, int]]]] = {}
        self._away = False

    def __enter__(self) -> "Sender":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, after a last look; what is not sent waits."""
        self._over.set()
        if not self._away and self._turn.acquire(timeout=LAST_S):
            try:
                self._round()
            finally:
                self._turn.release()

    def flush(self, names: Collection[str], patience_s: float) -> set[str]:
        """Send these records now, for so many seconds at most; those that still wait."""
        deadline = time.monotonic() + patience_s
        while True:
            with self._turn:
                self._round()
            left = {record.name for record in outbox.waiting(self._folder)} & set(names)
            if not left or time.monotonic() > deadline:
                return left
            self._over.wait(min(ROUND_S, 0.1))

    def _work(self) -> None:
        pause, rest = ROUND_S, time.monotonic() + ALSO_S
        while not self._over.wait(pause):
            with self._turn:
                answered = self._round()
                if answered and time.monotonic() > rest:
                    began = time.monotonic()
                    self._do_also()
                    rest = time.monotonic() + max(ALSO_S, 20 * (time.monotonic() - began))
            pause = ROUND_S if answered else min(AWAY_S, pause * 2)

    def _do_also(self) -> None:
        """Whatever comes of it, sending goes on."""
        try:
            self._also()
        except PressftError:
            return  # a server or database is away: later
        except Exception as error:
            self._say(f"the summary cannot be shown now: {type(error).__name__}: {error}")

    def _round(self) -> bool:
        """Send what there is; whether the server answered."""
        for record in outbox.waiting(self._folder):
            try:
                with record.held() as ours:
                    if ours:
                        self._send(record)
            except AwayError as error:
                if not self._away:
                    self._say(f"{error}; the work goes on, what it shows waits in {self._folder}")
                self._away = True
                return False
            except (RejectedError, OSError, ValueError, KeyError) as error:
                record.refuse()
                self._say(f"{record.name} cannot be shown: {error}; see {self._folder}")
        if self._away:
            self._say("MLflow answers again")
        self._away = False
        return True

    def _send(self, record: Waiting) -> None:
        offset, run_id = record.sent()
        began, known = self._known.pop(record.name, (-1, set()))
        if began != offset:  # another process has sent of it, or none
            known = self._tracker.points(run_id) if run_id else set()
        while (batch := record.batch(offset)).events:
            try:
                for kind, events in groupby(batch.events, key=lambda event: str(event["do"])):
                    run_id, known = self._apply(record.name, run_id, known, kind, list(events))
            except GoneError as error:
                if not offset:
                    raise RejectedError(str(error)) from error
                record.keep(0, "")  # its run was deleted: all of it once more
                return
            offset = batch.offset
            record.keep(offset, run_id)
            if batch.over:
                self._tracker.settle(run_id, record.name)
                record.drop()
                return
        self._known[record.name] = (offset, known)

    def _apply(
        self,
        name: str,
        run_id: str,
        known: set[tuple[str, int]],
        kind: str,
        events: Sequence[Event],
    ) -> tuple[str, set[tuple[str, int]]]:
        """Do events of one kind; the run they belong to, and its points."""
        if kind == "points":
            new: dict[tuple[str, int], Point] = {}
            for event in events:
                for key, value in event["metrics"].items():
                    if (at := (key, event["tokens"])) not in known:
                        new.setdefault(at, (key, float(value), event["tokens"], event["time"]))
            self._tracker.log(run_id, list(new.values()))
            return run_id, known | set(new)
        for event in events:
            if kind == "begin":
                run_id = self._begin(name, event)
                known = self._tracker.points(run_id)
            elif kind == "amend":
                run_id = self._amend(name, event)
            elif run_id:
                self._tell(run_id, event)
        return run_id, known

    def _begin(self, name: str, event: Event) -> str:
        experiment = self._tracker.experiment(**event["experiment"])
        data = [Data(**item) for item in event["data"]]
        return self._tracker.start(
            experiment, name, event["title"], event["params"], event["tags"], data
        )

    def _amend(self, name: str, event: Event) -> str:
        found = self._tracker.showing(self._tracker.experiment(**event["experiment"]), name)
        if not found:
            return ""  # the doctor makes it anew
        had = self._tracker.latest(found[0])
        points = [
            (key, float(value), event["tokens"], event["time"])
            for key, value in event["metrics"].items()
            if had.get(key) != value
        ]
        self._tracker.log(found[0], points)
        self._tracker.tag(found[0], event["tags"])
        return found[0]

    def _tell(self, run_id: str, event: Event) -> None:
        match event["do"]:
            case "tag":
                self._tracker.tag(run_id, event["tags"])
            case "texts":
                self._tracker.texts(run_id, event["texts"])
            case "files" if Path(event["folder"]).is_dir():
                self._tracker.files(run_id, Path(event["folder"]))
            case "end":
                self._tracker.finish(run_id, event["status"], event["time"])
