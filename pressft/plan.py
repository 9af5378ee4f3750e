"""What a sweep would do: its cells, which of them are known, and, measured, what the others take.

The outline is read from stored trials and files, at once and without torch. Time and memory come
from two short training steps and a validation text of the whole model, if they are asked for.
Nothing is written but, for these, a model's files in the cache.
"""

import dataclasses
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pressft._assets import Progress
from pressft.corpus.load import load_corpus
from pressft.errors import MissingError, UsageError
from pressft.model import files
from pressft.report import status
from pressft.spec import TrialSpec, Value, resolve
from pressft.study.halving import Halving
from pressft.study.locations import Locations
from pressft.study.results import Store
from pressft.study.study import Choices, Range, Study
from pressft.study.trials import Trial, key

if TYPE_CHECKING:  # heavy: an outline does without
    from transformers import PreTrainedModel

    from pressft.context import Context

DISK_ROOM = 64 * 2**20  # bytes of disk that a study takes beside its adapters and their checkpoints
CHECKPOINT = 3  # adapters: itself and two moments of it
WHILE_TRAINING = 3 * CHECKPOINT  # two kept and one being written
PRECISIONS = ("float32", "bfloat16")  # which one this machine computes in, torch alone can tell


@dataclass(frozen=True, slots=True)
class Cell:
    """A trial of a grid: its params, tokens to train on, whether its result is there already."""

    params: Mapping[str, Value]
    tokens: int
    known: bool


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """What is planned for one arm: layers removed (empty while the model is not there to tell),
    trials asked for, how many of them are known, tokens to train on for the others; seconds that
    these take in one process, where that was measured."""

    arm: str
    removed: tuple[str, ...]
    trials: int
    known: int
    tokens: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep would do, arm by arm; the cells of a grid; peak memory of a training process in
    bytes, where that was measured."""

    study: str
    arms: tuple[ArmPlan, ...]
    cells: tuple[Cell, ...]
    peak_bytes: int | None = None

    @property
    def seconds(self) -> float | None:
        """Seconds that all arms take together, where that was measured."""
        measured = [arm.seconds for arm in self.arms if arm.seconds is not None]
        return sum(measured) if measured else None


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds per token that is trained on, and per token that is scored, by the whole model."""

    training_s: float
    scoring_s: float
    peak_bytes: int


def outline(study: Study, locations: Locations, progress: Progress) -> Plan:
    """The plan of a study without time and memory, from what is stored.

    Raises:
        UsageError, DataError, MissingError: what the sweep itself would be refused for; a study
            that starts from a scan, which has to be made first.
    """
    if study.scanned:
        raise UsageError(f"{study.name}: its arms are known after `pressft scan`, or the sweep")
    texts = [study.base.corpus, *([study.base.general] if study.base.general else [])]
    fingerprint = "+".join(load_corpus(name, progress).fingerprint for name in texts)
    model = files.present(study.base.model)
    depth = files.n_layers(model) if model else None
    done = [trial for trial in _trials(study, locations) if trial.is_done]
    keys = {trial.key for trial in done}
    results = _Results(Store(locations.root), model, fingerprint)
    cells = tuple(
        Cell(params, spec.trained_tokens, key(params) in keys or results.have(spec, depth))
        for params in (study.grid() if study.design == "grid" else ())
        for spec in (study.spec(**params),)
    )
    known = Counter(str(cell.params["remove"]) for cell in cells if cell.known)
    if study.design != "grid":
        known = Counter(trial.arm for trial in done)
    asked = study.n_trials // len(study.arms())
    arms = (_arm(study, arm, depth, asked, known[arm]) for arm in study.arms())
    return Plan(study.name, tuple(arms), cells)


def measured(study: Study, plan: Plan, locations: Locations, progress: Progress) -> Plan:
    """A plan with the time and memory of what is left, measured on this machine.

    Raises:
        UsageError, DataError, MissingError: as the sweep itself.
    """
    from pressft.context import prepare

    base = dataclasses.replace(study.base, model=files.resolve(study.base.model))
    study = dataclasses.replace(study, base=base)
    context = prepare(base, Store(locations.root), progress)
    pace = _pace(context, base, progress)
    arms = tuple(_timed(context, study, arm, pace) for arm in plan.arms)
    return dataclasses.replace(plan, arms=arms, peak_bytes=pace.peak_bytes)


class _Results:
    """The results that are there for a model and its texts, whatever study they were made for."""

    def __init__(self, store: Store, model: Path | None, fingerprint: str) -> None:
        self._store, self._fingerprint = store, fingerprint
        self._names: list[str] = []
        if model and (store.root / "cells").is_dir():  # or nothing is known: spare the hashing
            own = files.identity(model), files.tokenizer_identity(model)
            self._names = [files.computed(*own, precision) for precision in PRECISIONS]

    def have(self, spec: TrialSpec, depth: int | None) -> bool:
        """Whether there is the result of a spec."""
        parts = resolve(spec.remove, depth) if depth else ()
        cells = (spec.cell(name, parts, self._fingerprint) for name in self._names)
        return any(map(self._store.has, cells))


def _trials(study: Study, locations: Locations) -> list[Trial]:
    """The study's trials, where it has been begun."""
    try:
        return status.find(study.name, locations).trials
    except UsageError:
        return []


def _arm(study: Study, arm: str, depth: int | None, asked: int, known: int) -> ArmPlan:
    tokens = (
        (asked - known) * study.spec(remove=arm).trained_tokens * Halving(study).trained_share()
    )
    removed = tuple(map(str, resolve(arm, depth))) if depth else ()
    return ArmPlan(arm, removed, asked, known, round(tokens))


def _timed(context: "Context", study: Study, plan: ArmPlan, pace: Pace) -> ArmPlan:
    """The plan of an arm with its time: a smaller model is as much faster as it is smaller."""
    from pressft.context import TRAIN_COST
    from pressft.model.layers import count
    from pressft.model.surgery import removed
    from pressft.trial import untrained_key

    spec, model = study.spec(remove=plan.arm), context.base.model
    whole = sum(count(p) for p in model.parameters())
    with removed(model, parts := resolve(plan.arm, context.base.n_layers)):
        share = sum(count(p) for p in model.parameters()) / whole
    scored = context.cost(spec) - TRAIN_COST * spec.trained_tokens
    known = context.store.untrained(untrained_key(context, spec))
    untrained = 0 if known else context.tested_tokens(spec)
    scoring_s = ((plan.trials - plan.known) * scored + untrained) * pace.scoring_s
    seconds = share * (plan.tokens * pace.training_s + scoring_s)
    return dataclasses.replace(plan, removed=tuple(map(str, parts)), seconds=seconds)


def _pace(context: "Context", spec: TrialSpec, progress: Progress) -> Pace:
    """Measure two short steps, or as many as are recorded, the last of which counts, and a
    validation text."""
    from pressft.context import training_data
    from pressft.evaluation import cost, perplexity
    from pressft.model import adapter
    from pressft.model.fused import cuda_graph
    from pressft.training import loop, passes

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


def check_disk(study: Study, model: "PreTrainedModel", root: Path) -> None:
    """Refuse to start where the disk will be full, or cannot be written.

    Raises:
        MissingError: how much room there is, and how much it takes.
    """
    from pressft.model import adapter

    ranks = study.space.get("rank")
    values = ranks.values if isinstance(ranks, Choices) else ()
    rank = max([study.base.rank, *(int(v) for v in values)])
    if isinstance(ranks, Range):
        rank = int(ranks.high)
    one = adapter.size(model, rank)
    each = CHECKPOINT if Halving(study).next_rung(study.spec(seed=study.seeds[0])) else 1  # paused
    free, needed = (
        shutil.disk_usage(root).free,
        DISK_ROOM + one * (WHILE_TRAINING + each * study.n_trials),
    )
    if free < needed:
        raise MissingError(
            f"{root}: {free / 2**20:,.0f} MiB free, and {study.n_trials} trials may take "
            f"{needed / 2**20:,.0f}: free some, or sweep fewer"
        )
