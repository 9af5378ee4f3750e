"""Room on the disk that a study needs, found out before it starts and named where it ends."""

import shutil
import uuid
from pathlib import Path

from transformers import PreTrainedModel

from pressft.errors import MissingError
from pressft.model import adapter
from pressft.study.halving import Rungs
from pressft.study.study import Choices, Range, Study

ROOM = 64 * 2**20  # bytes of disk that a study takes beside its adapters and their checkpoints
CHECKPOINT = 3  # adapters: itself and two moments of it
AT_WORK = 3 * CHECKPOINT  # two kept and one being written


def check(study: Study, model: PreTrainedModel, root: Path) -> None:
    """Refuse to start where the disk will be full, or cannot be written.

    Raises:
        MissingError: how much room there is, and how much it takes.
    """
    ranks = study.space.get("rank")
    values = ranks.values if isinstance(ranks, Choices) else ()
    rank = max([study.base.rank, *(int(v) for v in values)])
    if isinstance(ranks, Range):
        rank = int(ranks.high)
    one = adapter.size(model, rank)
    each = CHECKPOINT if Rungs(study).until(study.spec(seed=study.seeds[0])) else 1  # that rests
    free, needed = shutil.disk_usage(root).free, ROOM + one * (AT_WORK + each * study.n_trials)
    if free < needed:
        raise MissingError(
            f"{root}: {free / 2**20:,.0f} MiB free, and {study.n_trials} trials may take "
            f"{needed / 2**20:,.0f}: free some, or sweep fewer"
        )


def trouble(root: Path) -> str:
    """What is wrong with the disk under `root`, if anything is."""
    try:
        if shutil.disk_usage(root).free < 2**20:
            return f"{root}: the disk is full"
        probe = root / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(bytes(2**16))
        probe.unlink()
    except OSError as error:
        return f"{root}: {error.strerror}"
    return ""
