"""What models are asked to read: prompts to continue, questions with their right answers."""

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
    """Prompts and questions in their order; empty where a study has none."""

    prompts: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Prompts":
        """Back from `asdict`, also of nothing."""
        asked = (Question(**question) for question in stored.get("questions", ()))
        return cls(tuple(stored.get("prompts", ())), tuple(asked))

    @property
    def key(self) -> str:
        """16 hex digits that name the very texts."""
        return digest(asdict(self))

    def __bool__(self) -> bool:
        """Whether there is anything to read."""
        return bool(self.prompts or self.questions)


def load(prompts: str, questions: str) -> Prompts:
    """Prompts from a text file, one a line, and questions from a JSONL file; "" is none.

    Raises:
        DataError: a file that is not there, or a line that is not what it should be.
    """
    lines = _lines(Path(prompts)) if prompts else []
    asked = [_question(questions, *line) for line in _lines(Path(questions))] if questions else []
    return Prompts(tuple(text for _, text in lines), tuple(asked))


def _lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of the lines that hold something."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; one prompt or JSON object a line, UTF-8") from error
    numbered = enumerate(text.splitlines(), 1)
    found = [(number, line.strip()) for number, line in numbered if line.strip()]
    if not found:
        raise DataError(f"{path}: empty; one prompt or JSON object a line, UTF-8")
    return found


def _question(path: str, number: int, line: str) -> Question:
    try:
        data = json.loads(line)
        question, answer = data["question"], data["answer"]
        if not (isinstance(question, str) and isinstance(answer, str) and answer.strip()):
            raise ValueError("texts expected, the answer not empty")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path}, line {number}: {error}; give {{"question": "…", "answer": "…"}}'
        ) from error
    return Question(question, answer.strip())
