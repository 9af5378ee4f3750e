"""Atomic writes, digests, and the state of the disk."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` when the block ends: readers see either
    the old file or the new one, even after a power cut. A caller who is `alone`, because of a lock,
    overwrites what a killed process left behind."""
    part = path.with_name(f".{path.name}.part" if alone else f".{path.name}.{os.getpid()}")
    try:
        yield part
        sync(part)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_atomically(path: Path, content: str | bytes, *, alone: bool = False) -> None:
    """Write a whole file atomically, by `replacing`."""
    with replacing(path, alone=alone) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(value: object) -> str:
    """The first 16 hex digits of the sha256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def disk_trouble(root: Path) -> str:
    """What is wrong with the disk under `root`, or ""."""
    try:
        if shutil.disk_usage(root).free < 2**20:
            return f"{root}: the disk is full"
        probe = root / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(bytes(2**16))
        probe.unlink()
    except OSError as error:
        return f"{root}: {error.strerror}"
    return ""
