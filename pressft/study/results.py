"""The results of trials and of untrained models, as files: one folder per cell, written once.

`mlruns/cells/CELL/result.json` exists if and only if the cell is done. MLflow shows copies.
"""

import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import filelock
from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError

from pressft._files import write_atomically
from pressft.errors import DataError
from pressft.score import Score, total
from pressft.spec import Removal

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of a cell; it cannot lead out of their folder

# stored as [nats, tokens, bytes, words], to be short: there is one score per document
StoredScore = Annotated[
    Score,
    BeforeValidator(lambda row: Score(*row) if isinstance(row, list) else row),
    PlainSerializer(lambda score: [score.nats, score.tokens, score.bytes, score.words]),
]


class Point(NamedTuple):
    """Metrics of a training after `tokens` tokens; `time` in milliseconds since 1970."""

    tokens: int
    metrics: dict[str, float]
    time: int = 0


Curve = tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Untrained:
    """The result of a cut base before any training: scores of the test documents and of the general
    ones, greedy continuations."""

    removal: Removal
    parameters: int  # of the cut model
    test: tuple[StoredScore, ...]
    samples: tuple[str, ...]
    general: tuple[StoredScore, ...] = ()


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of one finished cell; `curve` is ordered by tokens, seconds are wall clock."""

    cell: str
    removal: Removal
    validation: StoredScore
    test: tuple[StoredScore, ...]  # per test document, in the order of `Untrained.test`
    curve: Curve
    samples: tuple[str, ...]
    data: str  # digest of the training tokens in order
    tokens: int
    training_s: float
    total_s: float
    general: tuple[StoredScore, ...] = ()  # per general document, if there are any
    micro: int = 0  # sequences per pass; fewer where memory was short

    @property
    def test_score(self) -> Score:
        """The score of the whole test split."""
        return total(self.test)


@dataclass(frozen=True, slots=True)
class Cost:
    """The inference cost of a cut model on `machine`: speed of greedy generation, peak memory of
    weights and activations, size of the exported weights."""

    machine: str
    tokens_per_second: float
    peak_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's answers to the prompts and questions that `key` identifies: greedy and sampled
    continuations, and for each question the score of its right answer."""

    key: str
    greedy: tuple[str, ...]
    sampled: tuple[str, ...]
    scores: tuple[StoredScore, ...]


@dataclass(frozen=True, slots=True)
class Store:
    """The stored cells under `root`, usually `mlruns`. Every method that takes the name of a cell
    raises DataError for a name that leads elsewhere."""

    root: Path

    def folder(self, cell: str) -> Path:
        """The folder of a cell's files: adapter, removal, result.

        Raises:
            DataError: not a valid name of a cell, or a link to another place.
        """
        folder = self.root / "cells" / cell
        if not NAME.fullmatch(cell) or folder.is_symlink():
            raise DataError(f"{cell!r} is not a cell: see the folders in {self.root / 'cells'}")
        return folder

    def adapter(self, cell: str) -> Path | None:
        """The folder of a cell's adapter, if there is one.

        Raises:
            DataError: it is or contains a link, which is refused because its files are copied to
                MLflow.
        """
        folder = self.folder(cell) / "adapter"
        if link := next((path for path in (folder, *folder.rglob("*")) if path.is_symlink()), None):
            raise DataError(f"{link} is a link: replace it by the files of the adapter")
        return folder if folder.is_dir() else None

    def lock(self, cell: str) -> AbstractContextManager[object]:
        """A lock under which no other process, of any study, works on the cell."""
        self.folder(cell).mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.folder(cell) / ".lock")

    def has(self, cell: str) -> bool:
        """Whether a cell is done."""
        return bool(cell) and self._path(cell, "result").is_file()

    def trial(self, cell: str) -> TrialResult | None:
        """The result of a cell; None if it is not done."""
        found: TrialResult | None = self._read(TrialResult, cell, "result") if cell else None
        return found

    def known(self, cell: str) -> TrialResult:
        """The result of a cell that is done."""
        result = self.trial(cell)
        assert result
        return result

    def untrained(self, key: str) -> Untrained | None:
        """The scores of a cut base; None if it has not been scored."""
        found: Untrained | None = self._read(Untrained, key, "result")
        return found

    def save(self, cell: str, result: TrialResult | Untrained) -> None:
        """Write a result atomically."""
        self._write(cell, "result", result)

    def cost(self, key: str) -> Cost | None:
        """The inference cost of a cut model; None if it has not been measured."""
        found: Cost | None = self._read(Cost, key, "cost")
        return found

    def save_cost(self, key: str, cost: Cost) -> None:
        """Store a measurement beside the scores of the same cut base."""
        self._write(key, "cost", cost)

    def answers(self, cell: str) -> Answers | None:
        """The last answers of the model of a cell; None if it has not answered yet."""
        found: Answers | None = self._read(Answers, cell, "answers")
        return found

    def save_answers(self, cell: str, answers: Answers) -> None:
        """Store answers beside the result of their cell."""
        self._write(cell, "answers", answers)

    def curve(self, cell: str, record: str) -> Curve:
        """The stored curve of a trial that ended without a result; empty if there is none."""
        return self._read(Curve, cell, f"curve-{record}") or () if cell else ()

    def save_curve(self, cell: str, record: str, curve: Curve) -> None:
        """Store the curve of a trial that ends without a result."""
        self._write(cell, f"curve-{record}", curve, Curve)

    def _path(self, cell: str, what: str) -> Path:
        folder = self.folder(cell)
        if not NAME.fullmatch(what):
            raise DataError(f"{what!r} cannot name a file of a cell")
        return folder / f"{what}.json"

    def _read(self, kind: Any, cell: str, what: str) -> Any:  # noqa: ANN401
        path = self._path(cell, what)
        if not path.is_file():
            return None
        try:
            return _adapter(kind).validate_json(path.read_bytes())
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise DataError(f"{path} is damaged ({why}): delete it, and sweep again") from None

    def _write(self, cell: str, what: str, value: object, kind: Any = None) -> None:  # noqa: ANN401
        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        known: Any = kind or type(value)
        data = _adapter(known).dump_python(value)
        write_atomically(folder / f"{what}.json", json.dumps(data) + "\n")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401
    return TypeAdapter(kind)
