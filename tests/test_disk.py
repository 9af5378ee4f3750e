"""A disk that is full or read-only: found before training starts, or stopped with a sentence."""

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from listening import TINY, Listener

from pressft import plan, sweep
from pressft.errors import MissingError
from pressft.model import tiny
from pressft.study.locations import Locations
from pressft.study.study import Choices, Study

STUDY = Study("small", TINY, {"remove": Choices("none", "last")})
MOUNTABLE = os.geteuid() == 0 and Path("/dev/loop-control").exists()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB of its own."""
    image, folder = tmp_path / "image", tmp_path / "volume"
    folder.mkdir()
    image.touch()
    os.truncate(image, 24 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    made = subprocess.run(["mount", "-o", "loop", image, folder], check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"no loop mounts here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


needs_mount = pytest.mark.skipif(not MOUNTABLE, reason="needs root and loop devices")


def test_a_study_that_would_fill_the_disk_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "DISK_ROOM", 2**60)
    with pytest.raises(MissingError, match=r"MiB free, and 2 trials may take [\d,]+: free some"):
        plan.check_disk(STUDY, tiny.model("tiny-llama"), tmp_path)


@needs_mount
def test_a_small_file_system_is_refused_before_anything_is_written(volume: Path) -> None:
    with pytest.raises(MissingError, match="MiB free"):
        sweep.run_sweep(STUDY, Listener(), Locations(volume))
    assert not (volume / "optuna.db").exists()


@needs_mount
def test_a_read_only_file_system_is_named_before_anything_starts(volume: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
    with pytest.raises(MissingError, match="Read-only file system"):
        sweep.run_sweep(STUDY, Listener(), Locations(volume))


@needs_mount
def test_a_disk_that_fills_up_while_training_stops_the_study_which_goes_on_later(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "DISK_ROOM", 0)
    monkeypatch.setattr("pressft.training.loop.CHECKPOINT_S", 0.0)
    study = dataclasses.replace(STUDY, space={})
    locations = Locations(
        volume, f"sqlite:///{tmp_path / 'optuna.db'}"
    )  # cells alone on the small one
    ballast = volume / "ballast"

    class Filling(Listener):
        def advance(self, what: str, units: int) -> None:
            super().advance(what, units)
            if "training" in what and not ballast.exists():
                with ballast.open("wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(2**16))
                    except OSError:
                        return

    with pytest.raises(
        MissingError, match=r"(No space left on device|the disk is full); the same command"
    ):
        sweep.run_sweep(study, Filling(), locations)
    ballast.unlink()
    outcome = sweep.run_sweep(study, Listener(), locations)
    assert (outcome.done, outcome.trained) == (1, 1)
