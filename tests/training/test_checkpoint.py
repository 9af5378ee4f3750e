"""Checkpoints: whole or not there, the newest whole one is found, older ones go."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from pressft.training import checkpoint


def made(folder: Path, step: int) -> Path:
    return checkpoint.save(folder, step, {"curve": []}, {"adapter": {"a": torch.ones(9)}})


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
        os.truncate(newer / checkpoint.TENSORS, 3)
    elif damage == "bit":
        (newer / checkpoint.FACTS).write_text('{"curve": [3]}')
    elif damage == "gone":
        (newer / checkpoint.TENSORS).unlink()
    elif damage == "no marker":
        (newer / checkpoint.MARKER).unlink()
    else:
        (newer / checkpoint.MARKER).write_text("[1]")
    line = "checkpoint step-00000002 is damaged and passed over"
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000001", [line])
    made(tmp_path, 2)  # saved again: the damaged one is replaced
    assert checkpoint.newest(tmp_path) == (newer, [])


def test_a_checkpoint_reads_back_as_it_was(tmp_path: Path) -> None:
    facts = {"number": 3, "losses": [0.1, 1 / 3], "curve": [[64, {"train/loss": 2.5}]]}
    tensors = {"adapter": {"a": torch.rand(3)}, "optimizer": {"state": {0: {"step": 3}}}}
    read, weights = checkpoint.load(checkpoint.save(tmp_path, 3, facts, tensors))
    assert read == facts
    assert torch.equal(weights["adapter"]["a"], tensors["adapter"]["a"])
    assert weights["optimizer"] == tensors["optimizer"]


def test_a_checkpoint_that_would_execute_something_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, {}, {"adapter": {"a": Path("x")}})
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        checkpoint.load(path)


def test_a_checkpoint_of_another_version_is_passed_over_and_named(tmp_path: Path) -> None:
    work = tmp_path / "old"
    work.mkdir()
    (work / "trainer_state.json").write_text("{}")
    checkpoint.seal(work, tmp_path, 7)
    line = "checkpoint step-00000007 is of another version and passed over"
    assert checkpoint.newest(tmp_path) == (None, [line])
