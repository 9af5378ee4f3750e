"""Prompts that models continue, and questions with the right answers that they are scored on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pressft._files import digest
from pressft.errors import DataError


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its right answer, a few words."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts and questions of a study, in order; empty if it has none."""

    prompts: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Prompts":
        """The inverse of `asdict`; an empty mapping gives no prompts."""
        asked = (Question(**question) for question in stored.get("questions", ()))
        return cls(tuple(stored.get("prompts", ())), tuple(asked))

    @property
    def key(self) -> str:
        """16 hex digits that identify the texts."""
        return digest(asdict(self))

    def __bool__(self) -> bool:
        return bool(self.prompts or self.questions)


def load(prompts: str, questions: str) -> Prompts:
    """Prompts from a text file, one per line, and questions from a JSONL file; "" for no file.

    Raises:
        DataError: a file cannot be read, or a line does not have the expected form.
    """
    lines = _lines(Path(prompts)) if prompts else []
    asked = [_question(questions, *line) for line in _lines(Path(questions))] if questions else []
    return Prompts(tuple(text for _, text in lines), tuple(asked))


def _lines(path: Path) -> list[tuple[int, str]]:
    """The non-empty lines with their numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; one prompt or JSON object per line, UTF-8") from error
    numbered = enumerate(text.splitlines(), 1)
    found = [(number, line.strip()) for number, line in numbered if line.strip()]
    if not found:
        raise DataError(f"{path}: empty; one prompt or JSON object per line, UTF-8")
    return found


def _question(path: str, number: int, line: str) -> Question:
    try:
        data = json.loads(line)
        question, answer = data["question"], data["answer"]
        if not (isinstance(question, str) and isinstance(answer, str) and answer.strip()):
            raise ValueError("expected two strings, the answer not empty")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path}, line {number}: {error}; give {{"question": "…", "answer": "…"}}'
        ) from error
    return Question(question, answer.strip())
