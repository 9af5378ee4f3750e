"""What trials and untrained models scored, kept as files: one folder a cell, written once.

`mlruns/cells/CELL/result.json` is there if and only if the cell is done. MLflow shows copies.
"""

import json
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from pressft.score import Score, as_rows, from_rows, total
from pressft.spec import Removal


@dataclass(frozen=True, slots=True)
class Untrained:
    """A cut base before any training: score of each test document and of each general one, greedy
    continuations."""

    removal: Removal
    parameters: int  # of the cut model
    test: tuple[Score, ...]
    samples: tuple[str, ...]
    general: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class TrialResult:
    """One finished cell. `curve` holds (tokens seen, metrics there) in order; seconds are wall."""

    cell: str
    removal: Removal
    validation: Score
    test: tuple[Score, ...]  # of each test document, in the order of `Untrained.test`
    curve: tuple[tuple[int, dict[str, float]], ...]
    samples: tuple[str, ...]
    data: str  # digest of the training tokens in their order: equal for equal data
    tokens: int
    training_s: float
    total_s: float
    general: tuple[Score, ...] = ()  # likewise, of the general text where there is one
    micro: int = 0  # blocks a pass: fewer where memory was short

    @property
    def test_score(self) -> Score:
        """Score of the whole test split."""
        return total(self.test)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a cut model takes to run on `machine`: speed of greedy generation, peak memory of
    weights and work, size of its weights as exported."""

    machine: str
    tokens_per_second: float
    peak_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model made of the prompts and questions that `key` names: continuations, greedy and
    sampled, and for each question the score of its right answer."""

    key: str
    greedy: tuple[str, ...]
    sampled: tuple[str, ...]
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Store:
    """The cells under `root`, usually `mlruns`."""

    root: Path

    def folder(self, cell: str) -> Path:
        """Where the files of a cell live: adapter, removal, result."""
        return self.root / "cells" / cell

    def alone(self, cell: str) -> AbstractContextManager[object]:
        """Within it no other process works on the cell, of whatever study."""
        self.folder(cell).mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.folder(cell) / ".lock")

    def has(self, cell: str) -> bool:
        """Whether a cell is done."""
        return self._path(cell, "result").is_file()

    def trial(self, cell: str) -> TrialResult | None:
        """The result of a cell, None if it is not done."""
        return self.known(cell) if self.has(cell) else None

    def known(self, cell: str) -> TrialResult:
        """The result of a cell that is done."""
        data: dict[str, Any] = json.loads(self._path(cell, "result").read_text())
        return TrialResult(
            **data
            | {
                "removal": _removal(data["removal"]),
                "validation": from_rows([data["validation"]])[0],
                "test": from_rows(data["test"]),
                "general": from_rows(data.get("general", ())),
                "curve": tuple((tokens, metrics) for tokens, metrics in data["curve"]),
                "samples": tuple(data["samples"]),
            }
        )

    def untrained(self, key: str) -> Untrained | None:
        """Scores of a cut base, None if it has not been scored."""
        data = self._read(key)
        return data and Untrained(  # type: ignore[return-value]
            **data
            | {
                "removal": _removal(data["removal"]),
                "test": from_rows(data["test"]),
                "general": from_rows(data.get("general", ())),
                "samples": tuple(data["samples"]),
            }
        )

    def save(self, cell: str, result: TrialResult | Untrained) -> None:
        """Write a result; a reader sees all of it or nothing."""
        scores = {"test": as_rows(result.test), "general": as_rows(result.general)}
        data = asdict(result) | scores
        if isinstance(result, TrialResult):
            data["validation"] = as_rows([result.validation])[0]
        self._write(cell, "result", data)

    def cost(self, key: str) -> Cost | None:
        """What a cut model takes to run, None if it has not been measured."""
        data = self._read(key, "cost")
        return data and Cost(**data)  # type: ignore[return-value]

    def save_cost(self, key: str, cost: Cost) -> None:
        """Keep a measurement beside the scores of the same cut base."""
        self._write(key, "cost", asdict(cost))

    def answers(self, cell: str) -> Answers | None:
        """What the model of a cell last made of prompts and questions, None if it never did."""
        data = self._read(cell, "answers")
        return data and Answers(  # type: ignore[return-value]
            data["key"],
            tuple(data["greedy"]),
            tuple(data["sampled"]),
            from_rows(data["scores"]),
        )

    def save_answers(self, cell: str, answers: Answers) -> None:
        """Keep answers beside the result of their cell."""
        self._write(cell, "answers", asdict(answers) | {"scores": as_rows(answers.scores)})

    def _path(self, cell: str, what: str) -> Path:
        return self.folder(cell) / f"{what}.json"

    def _read(self, cell: str, what: str = "result") -> dict[str, Any] | None:
        path = self._path(cell, what)
        return json.loads(path.read_text()) if path.is_file() else None

    def _write(self, cell: str, what: str, data: dict[str, Any]) -> None:
        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{what}.json", json.dumps(data) + "\n")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is whole or not there, also after a power cut."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _removal(data: dict[str, Any]) -> Removal:
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
    return Removal(**fields)  # type: ignore[arg-type]
