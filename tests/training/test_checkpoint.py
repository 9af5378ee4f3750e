"""Checkpoints: whole or not there, the newest whole one is found, older ones go."""

import os
from pathlib import Path

import pytest

from pressft.training import checkpoint


def made(folder: Path, step: int, text: str = "weights") -> Path:
    work = folder / "part"
    (work / "inner").mkdir(parents=True)
    (work / "a.bin").write_text(text)
    (work / "inner" / "b.json").write_text(f"{step}")
    return checkpoint.seal(work, folder, step)


def test_the_newest_is_found_and_older_ones_go(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) == (None, [])
    for step in (3, 12, 200, 1000):
        made(tmp_path, step)
    found, damaged = checkpoint.newest(tmp_path)
    assert (found, damaged) == (tmp_path / "step-00001000", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000200", "step-00001000"]


@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "no marker", "bad marker"])
def test_a_damaged_one_is_passed_over_and_named(tmp_path: Path, damage: str) -> None:
    made(tmp_path, 1)
    newer = made(tmp_path, 2)
    if damage == "cut":
        os.truncate(newer / "a.bin", 3)
    elif damage == "bit":
        (newer / "inner" / "b.json").write_text("3")
    elif damage == "gone":
        (newer / "a.bin").unlink()
    elif damage == "no marker":
        (newer / checkpoint.MARKER).unlink()
    else:
        (newer / checkpoint.MARKER).write_text("[1]")
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000001", [newer])
    made(tmp_path, 2)  # saved again: the damaged one is replaced
    assert checkpoint.newest(tmp_path) == (newer, [])
