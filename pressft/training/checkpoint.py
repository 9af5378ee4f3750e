"""Checkpoints that are whole or not there: written aside, hashed, synced, renamed.

A checkpoint is a folder `step-NNNNNNNN` with a marker that holds the sha256 of every file in it. A
folder without a marker, or with a file that is not what the marker says, is damaged: it is passed
over, and said so.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from pressft.study.results import Point

MARKER = "whole.json"
KEPT = 2  # the newest ones: the last may turn out damaged


def seal(work: Path, folder: Path, step: int, kept: int = KEPT) -> Path:
    """Make the finished folder `work` the checkpoint of a step in `folder`, on the same file
    system; `kept` of them stay, the newest ones.

    A kill at any moment leaves either no such checkpoint or the whole one.
    """
    target = folder / f"step-{step:08d}"
    hashes = {}
    for path in sorted(path for path in work.rglob("*") if path.is_file()):
        with path.open("rb+") as file:
            hashes[str(path.relative_to(work))] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    with (work / MARKER).open("w") as file:
        json.dump(hashes, file)
        file.flush()
        os.fsync(file.fileno())
    _sync(work)
    if target.exists():
        shutil.rmtree(target)  # a damaged one of the same step
    work.rename(target)
    _sync(folder)
    for old in _found(folder)[kept:]:
        shutil.rmtree(old)
    return target


def newest(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint under `folder`, and the damaged ones that are newer."""
    damaged: list[Path] = []
    for path in _found(folder):
        if _whole(path):
            return path, damaged
        damaged.append(path)
    return None, damaged


def curve(folder: Path) -> tuple[Point, ...]:
    """The points of a training up to its newest whole checkpoint under `folder`; none without."""
    found, _ = newest(folder)
    state = json.loads((found / "teller.json").read_text()) if found else {"curve": ()}
    return tuple(Point(*point) for point in state["curve"])


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _whole(path: Path) -> bool:
    try:
        hashes = json.loads((path / MARKER).read_text())
        for name, expected in hashes.items():
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    return False
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _sync(folder: Path) -> None:
    """Write a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
