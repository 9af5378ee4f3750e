"""Prompts and questions: what is read, and what is refused by file and line."""

from pathlib import Path

import pytest

from pressft.errors import DataError
from pressft.study import prompts
from pressft.study.prompts import Prompts, Question


def test_prompts_and_questions_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("The first\n\n  The second \n")
    (tmp_path / "q.jsonl").write_text('{"question": "Who?", "answer": " Ada "}\n')
    found = prompts.load(str(tmp_path / "p.txt"), str(tmp_path / "q.jsonl"))
    assert found == Prompts(("The first", "The second"), (Question("Who?", "Ada"),))
    assert found.key != Prompts(("The first",), found.questions).key
    assert not prompts.load("", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "q.jsonl: .*No such file"),
        (b"\n \n", "q.jsonl: empty; one prompt"),
        (b"\xff", "q.jsonl: 'utf-8' codec"),
        (b'{"question": "a", "answer": "b"}\n{', "q.jsonl, line 2: Expecting"),
        (b'{"question": "a"}', "q.jsonl, line 1: 'answer'; give"),
        (b'{"question": "a", "answer": ""}', "line 1: expected two strings"),
        (b'["a", "b"]', "line 1: list indices"),
    ],
)
def test_a_line_that_is_no_question_is_named(
    tmp_path: Path, text: bytes | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "q.jsonl").write_bytes(text)
    with pytest.raises(DataError, match=message):
        prompts.load("", str(tmp_path / "q.jsonl"))
