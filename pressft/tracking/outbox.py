"""What a run is to show, first in an append-only, synced file; from there it is sent.

`mlruns/outbox/NAME.jsonl` holds what is still to be sent of one record, one JSON object a line. A
training writes to it and goes on; sending is left to others, who may be late, or another process.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset of a run: `digest` is our own sha256, MLflow's looks at 10,000 rows only."""

    name: str
    digest: str
    source: str
    context: str  # training, validation or test
    profile: str  # JSON


class Record:
    """The record of one run, to be written to by one process at a time."""

    def __init__(self, folder: Path, name: str) -> None:
        """Begin the record `name`, or go on with it."""
        self.name = name
        self._path = folder / f"{name}.jsonl"
        self._known: set[tuple[str, int]] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def begin(
        self,
        experiment: Mapping[str, str],
        title: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        data: Sequence[Data] = (),
    ) -> None:
        """The run is running, for the first time or again; `experiment` has a name and a
        question."""
        event = {
            "do": "begin",
            "experiment": dict(experiment),
            "title": title,
            "params": {key: str(value) for key, value in params.items()},
            "tags": {key: str(value) for key, value in tags.items()},
            "data": [asdict(item) for item in data],
        }
        with self._reopened() as file:
            _write(file, event)

    def points(self, tokens: int, metrics: Mapping[str, float]) -> None:
        """Points of curves, each told once; the x axis is tokens seen."""
        new = {key: value for key, value in metrics.items() if (key, tokens) not in self._known}
        if new:
            self._append(do="points", tokens=tokens, metrics=new, time=_now())
            self._known |= {(key, tokens) for key in new}

    def amend(
        self,
        experiment: Mapping[str, str],
        status: str,
        tokens: int = 0,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Of a run that no process writes to: its status, tags, and numbers that later ones
        replace."""
        event = {"do": "amend", "experiment": dict(experiment), "tokens": tokens}
        with self._reopened() as file:
            _write(file, event | {"metrics": metrics or {}, "tags": tags or {}, "time": _now()})
            _write(file, {"do": "end", "status": status, "time": _now()})

    def tag(self, **tags: str) -> None:
        """Tags of the run."""
        self._append(do="tag", tags=tags)

    def texts(self, texts: Mapping[str, str]) -> None:
        """Small artifacts, by file name."""
        self._append(do="texts", texts=dict(texts))

    def files(self, folder: Path) -> None:
        """A folder whose files are artifacts; it has to stay where it is until it is sent."""
        self._append(do="files", folder=str(folder.resolve()))

    def end(self, status: str) -> None:
        """The run is over: FINISHED, FAILED or KILLED; or SCHEDULED, where it rests."""
        self._append(do="end", status=status, time=_now())

    def abandon(self) -> None:
        """Close the record of a process that is gone and did not."""
        with self._reopened() as file:
            file.seek(0)
            last = file.readlines()[-1:]
            if last and json.loads(last[0])["do"] != "end":
                _write(file, {"do": "end", "status": "KILLED", "time": _now()})

    def _append(self, **event: object) -> None:
        with self._path.open("ab") as file:
            _write(file, event)

    @contextmanager
    def _reopened(self) -> Iterator[IO[bytes]]:
        """The file, without what a kill left of a line."""
        with _alone(self._path, "ab+") as file:
            file.seek(0)
            file.truncate(sum(len(line) for line in _lines(file)))
            yield file


@dataclass(frozen=True, slots=True)
class Batch:
    """The next events of a record, and whether the run is over with them."""

    events: tuple[Mapping[str, Any], ...]
    offset: int  # behind them
    over: bool


class Waiting:
    """A record that waits to be sent, held by one process at a time; its progress is kept beside
    it, so that another one can go on."""

    def __init__(self, path: Path) -> None:
        """Of the file at `path`."""
        self.path = path
        self._progress = path.with_suffix(".sent")

    @property
    def name(self) -> str:
        """Of the record."""
        return self.path.stem

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Whether it is ours alone within; not where another process has it, or it is gone."""
        try:
            with _alone(self.path, "rb+", wait=False):
                yield True
        except (BlockingIOError, FileNotFoundError):
            yield False

    def sent(self) -> tuple[int, str]:
        """Bytes of the file that have been sent, and the id of the run."""
        try:
            offset, run_id = json.loads(self._progress.read_text())
        except (OSError, ValueError):
            return 0, ""
        return int(offset), str(run_id)

    def batch(self, offset: int, most: int = 500) -> Batch:
        """The events behind `offset`, as many as `most`."""
        with self.path.open("rb") as file:
            file.seek(offset)
            lines = [line for _, line in zip(range(most), _lines(file), strict=False)]
            over = offset + sum(map(len, lines)) == os.fstat(file.fileno()).st_size
        events = tuple(json.loads(line) for line in lines)
        ended = bool(events) and events[-1]["do"] == "end"
        return Batch(events, offset + sum(map(len, lines)), over and ended)

    def keep(self, offset: int, run_id: str) -> None:
        """Keep how far it has been sent. Lost in a power cut, some is sent again, and known."""
        part = self._progress.with_suffix(".part")
        part.write_text(json.dumps([offset, run_id]))
        part.replace(self._progress)

    def drop(self) -> None:
        """All of it has been sent."""
        self.path.unlink()
        self._progress.unlink(missing_ok=True)

    def refuse(self) -> None:
        """Set it aside: no server will ever take it."""
        self.path.replace(self.path.with_suffix(".refused"))
        self._progress.unlink(missing_ok=True)


def waiting(folder: Path) -> list[Waiting]:
    """The records that wait, by name."""
    return [Waiting(path) for path in sorted(folder.glob("*.jsonl"))]


@contextmanager
def _alone(path: Path, mode: str, *, wait: bool = True) -> Iterator[IO[bytes]]:
    """A file that no other process has; one deleted while we waited is begun anew."""
    while True:
        with path.open(mode) as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(file.fileno()).st_nlink:
                yield file
                return


def _write(file: IO[bytes], event: Mapping[str, object]) -> None:
    file.write(json.dumps(event).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Whole lines from here; what a kill left of one is no line."""
    for line in file:
        if not line.endswith(b"\n"):
            return
        yield line


def _now() -> int:
    return int(time.time() * 1000)
