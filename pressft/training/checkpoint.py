"""Checkpoints that are whole or not there: written aside, hashed, synced, renamed.

A checkpoint is a folder `step-NNNNNNNN` with a marker that holds the sha256 of every file in it. A
folder without a marker, or with a file that is not what the marker says, is damaged: it is passed
over, and named. Of the files, `training.json` holds the curve and is read without torch.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pressft._files import sync
from pressft.study.results import Curve, Point

MARKER, FACTS, TENSORS = "whole.json", "training.json", "tensors.pt"
KEPT = 2  # the newest ones: the last may turn out damaged


def save(
    folder: Path, step: int, facts: Mapping[str, Any], tensors: Mapping[str, Any], kept: int = KEPT
) -> Path:
    """Write the checkpoint of a step in `folder`: `facts` as JSON, and nested dicts of tensors."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / FACTS).write_text(json.dumps(facts))
    import torch  # heavy: whoever reads the facts alone does without

    torch.save(tensors, work / TENSORS)
    return seal(work, folder, step, kept)


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `save` was given; nothing in the files is executed."""
    import torch

    tensors = torch.load(path / TENSORS, map_location="cpu", weights_only=True)
    return json.loads((path / FACTS).read_text()), tensors


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
    sync(work)
    if target.exists():
        shutil.rmtree(target)  # a damaged one of the same step
    work.rename(target)
    sync(folder)
    for old in _found(folder)[kept:]:
        shutil.rmtree(old)
    return target


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint under `folder`, and a line on each newer one that is passed
    over."""
    passed_over: list[str] = []
    for path in _found(folder):
        fault = _fault(path)
        if not fault:
            return path, passed_over
        passed_over.append(f"checkpoint {path.name} is {fault} and passed over")
    return None, passed_over


def curve(folder: Path) -> Curve:
    """The points of a training up to its newest whole checkpoint under `folder`; none without."""
    found, _ = newest(folder)
    facts = json.loads((found / FACTS).read_text()) if found else {"curve": ()}
    return tuple(Point(*point) for point in facts["curve"])


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _fault(path: Path) -> str:
    """Why a checkpoint cannot be used; nothing where it can."""
    try:
        hashes = json.loads((path / MARKER).read_text())
        for name, expected in hashes.items():
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    return "damaged"
    except (OSError, ValueError, AttributeError):
        return "damaged"
    return "" if {FACTS, TENSORS} <= hashes.keys() else "of another version"
