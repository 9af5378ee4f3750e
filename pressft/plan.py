"""What a sweep would do: its cells, which are known, and what the others take on this machine.

Nothing is written but a model's files in the cache. Time and memory come from a probe: two short
training steps and a validation text of the whole model.
"""

import dataclasses
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from pressft import trial as trials
from pressft._assets import Progress
from pressft.context import TRAIN_COST, Context, prepare, training_data
from pressft.errors import MissingError, UsageError
from pressft.evaluation import cost, perplexity
from pressft.model import adapter, surgery
from pressft.model import base as models
from pressft.model.fused import cuda_graph
from pressft.report import status
from pressft.spec import TrialSpec, Value, resolve
from pressft.study.halving import Rungs
from pressft.study.locations import Locations
from pressft.study.results import Store
from pressft.study.study import Choices, Range, Study
from pressft.study.trials import Trial, key
from pressft.training import loop, passes

DISK_ROOM = 64 * 2**20  # bytes of disk that a study takes beside its adapters and their checkpoints
CHECKPOINT = 3  # adapters: itself and two moments of it
WHILE_TRAINING = 3 * CHECKPOINT  # two kept and one being written


@dataclass(frozen=True, slots=True)
class Cell:
    """A trial of a grid: its params, tokens to train on, whether its result is there already."""

    params: Mapping[str, Value]
    tokens: int
    known: bool


@dataclass(frozen=True, slots=True)
class ArmForecast:
    """Of one arm: layers removed, trials asked for, of these known, tokens to train on and seconds
    that the others take in one process."""

    arm: str
    removed: tuple[str, ...]
    trials: int
    known: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of a study, arm by arm; the cells of a grid; peak memory of a training process in bytes."""

    study: str
    arms: tuple[ArmForecast, ...]
    cells: tuple[Cell, ...]
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """Of all arms together."""
        return sum(arm.seconds for arm in self.arms)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds a token that is trained on, and one that is scored, by the whole model."""

    training_s: float
    scoring_s: float
    peak_bytes: int


def forecast(study: Study, locations: Locations, progress: Progress) -> Forecast:
    """Look ahead.

    Raises:
        UsageError, DataError, MissingError: what the sweep itself would be refused for; a study
            that starts from a scan, which has to be made first.
    """
    base = dataclasses.replace(study.base, model=models.resolve(study.base.model))
    study = dataclasses.replace(study, base=base)
    if study.scanned:
        raise UsageError(f"{study.name}: its arms are known after `pressft scan`, or the sweep")
    context = prepare(base, Store(locations.root), progress)
    pace = _pace(context, base, progress)
    done = [trial for trial in _rows(study, locations) if trial.is_done]
    keys = {trial.key for trial in done}
    cells = tuple(
        Cell(params, spec.trained_tokens, key(params) in keys or bool(trial))
        for params in (study.grid() if study.design == "grid" else ())
        for spec in (study.spec(**params),)
        for trial in (context.store.trial(context.cell(spec)),)
    )
    known = Counter(str(c.params["remove"]) for c in cells if c.known)
    if study.design != "grid":
        known = Counter(trial.arm for trial in done)
    asked = study.n_trials // len(study.arms())
    arms = tuple(_arm(context, study, arm, asked, known[arm], pace) for arm in study.arms())
    return Forecast(study.name, arms, cells, pace.peak_bytes)


def _rows(study: Study, locations: Locations) -> list[Trial]:
    """The study's trials, where it has been begun."""
    try:
        return status.find(study.name, locations).trials
    except UsageError:
        return []


def _arm(
    context: Context, study: Study, arm: str, asked: int, known: int, pace: Pace
) -> ArmForecast:
    spec = study.spec(remove=arm)
    model = context.base.model
    whole = sum(surgery.count(p) for p in model.parameters())
    with surgery.removed(model, parts := resolve(arm, context.base.n_layers)):
        share = sum(surgery.count(p) for p in model.parameters()) / whole
    left, tested = asked - known, context.tested_tokens(spec)
    tokens = round(left * spec.trained_tokens * Rungs(study).share())
    scored = context.cost(spec) - TRAIN_COST * spec.trained_tokens
    untrained = 0 if context.store.untrained(trials.untrained_key(context, spec)) else tested
    training_s = tokens * pace.training_s
    return ArmForecast(
        arm=arm,
        removed=tuple(map(str, parts)),
        trials=asked,
        known=known,
        tokens=tokens,
        seconds=share * (training_s + (left * scored + untrained) * pace.scoring_s),
    )


def _pace(context: Context, spec: TrialSpec, progress: Progress) -> Pace:
    """Measure two short steps, or as many as are recorded, the last of which counts, and a
    validation text."""
    micro = passes.blocks_per_pass(spec)
    steps = cuda_graph.PAYS if cuda_graph.pays(cuda_graph.PAYS) else 2
    short = dataclasses.replace(spec, remove="none", batch=micro, tokens=steps * micro * spec.block)
    document = context.validation_subset(spec)[0]
    progress("measuring the pace", 0, 1)
    with adapter.attached(context.base.model, spec.rank, spec.seed) as model:
        for step in loop.steps(model, training_data(context, short), short):
            if step.number in short.validated_at:
                began = time.perf_counter()
                perplexity.score(model, [document], context.separators.before, spec.window)
                scoring_s = (time.perf_counter() - began) / len(document.ids)
    progress("measuring the pace", 1, 1)
    return Pace(1 / step.metrics["train/tokens_per_second"], scoring_s, cost.peak_so_far())


def check_disk(study: Study, model: PreTrainedModel, root: Path) -> None:
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
    free, needed = (
        shutil.disk_usage(root).free,
        DISK_ROOM + one * (WHILE_TRAINING + each * study.n_trials),
    )
    if free < needed:
        raise MissingError(
            f"{root}: {free / 2**20:,.0f} MiB free, and {study.n_trials} trials may take "
            f"{needed / 2**20:,.0f}: free some, or sweep fewer"
        )
