"""One trial on one page: cut, adapt, train, score, restore.

Numbers go to the caller's `on_point`; nothing here knows of Optuna or MLflow.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from pressft._files import digest
from pressft.context import TRAIN_COST, Context, training_data
from pressft.evaluation import perplexity
from pressft.model import adapter, surgery
from pressft.model.tokens import Document, up_to
from pressft.score import Score, total
from pressft.spec import CELL_VERSION, Removal, TrialSpec, resolve
from pressft.study.results import Point, TrialResult, Untrained
from pressft.study.trials import now_ms
from pressft.training import loop
from pressft.training.teller import Safety

Advance = Callable[[str, int], None]  # what is being done, scored-token equivalents done just now

CALIBRATION_TOKENS = 2048  # of training text, for a repair
SAMPLE_TOKENS = 32


def untrained_key(context: Context, spec: TrialSpec) -> str:
    """Name of the scores of the spec's cut before training: rank and the like do not matter."""
    parts = resolve(spec.remove, context.base.n_layers)
    what = [CELL_VERSION, context.base.computed, parts, context.fingerprint]
    what += [spec.window, spec.quantization]
    what += [spec.validation_tokens] if context.general else []
    what += [spec.repair] if spec.repairs(parts) else []
    return f"untrained-{digest(what)}"


@contextmanager
def cut(context: Context, spec: TrialSpec) -> Iterator[Removal]:
    """The base without what the spec removes, repaired where it asks for that; put back after."""
    model = context.base.model
    parts = resolve(spec.remove, context.base.n_layers)
    scales: tuple[float, ...] = ()
    if spec.repairs(parts):
        text = up_to(context.text.train, CALIBRATION_TOKENS)
        rows = perplexity.windows(text, context.separators.before, spec.window)
        scales = surgery.gaps(model, parts, [torch.tensor([row.ids]) for row in rows])
    with surgery.removed(model, parts, scales) as removal:
        yield removal


def untrained(context: Context, spec: TrialSpec, advance: Advance) -> Untrained:
    """Scores of the spec's cut before training, from an earlier run where there is one (law 8)."""
    key = untrained_key(context, spec)
    if found := context.store.untrained(key):
        advance(f"{spec.remove}: known", context.tested_tokens(spec))
        return found
    model = context.base.model
    with cut(context, spec) as removal:
        label = f"{spec.remove}: scoring untrained"
        test, general = _test(context, model, spec, lambda n: advance(label, n))
        result = Untrained(
            removal,
            sum(surgery.count(parameter) for parameter in model.parameters()),
            test,
            _samples(context, model),
            general,
        )
    context.store.save(key, result)
    return result


def run_trial(
    context: Context,
    spec: TrialSpec,
    on_point: Callable[[Point], None],
    advance: Advance,
    safety: Callable[[Path], Safety] = Safety,
) -> TrialResult:
    """Cut, adapt, train, score one cell and keep its files; the base is left as it was (law 2).

    Training goes on from the cell's newest whole checkpoint, if there is one (law 10); `safety`, of
    the folder for them, says when it is to rest, and hears of signals, which end it behind the step
    at hand, saved.

    Raises:
        Rested: it has come as far as it was to.
        Stopped: a signal.
        DivergedError: a loss that is not finite.
        DataError: too little text for a block.
        UsageError: a layer out of range, an optimizer this machine cannot run.
    """
    began = time.perf_counter()
    cell = context.cell(spec)
    curve: list[Point] = []
    data = training_data(context, spec)
    subset = context.validation_subset(spec)

    def tell(tokens: int, metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            before = max((p.tokens for p in curve if "train/loss" in p.metrics), default=0)
            advance(f"{spec.remove}: training", TRAIN_COST * (tokens - before))
        curve.append(Point(tokens, metrics, now_ms()))
        on_point(curve[-1])

    with (
        cut(context, spec) as removal,
        adapter.attached(context.base.model, spec.rank, spec.seed) as model,
    ):

        def validate() -> Score:
            label = f"{spec.remove}: validating"
            return total(_score(context, model, subset, spec, lambda n: advance(label, n)))

        files = context.store.folder(cell)
        kept = safety(files / "checkpoints")
        trained = loop.train(model, data, spec, validate, tell, kept)
        label = f"{spec.remove}: testing"
        test, general = _test(context, model, spec, lambda n: advance(label, n))
        samples = _samples(context, model)
        adapter.save(model, removal, context.base.name, context.base.identity, files / "adapter")
    result = TrialResult(
        cell=cell,
        removal=removal,
        validation=trained.validation,
        test=test,
        curve=tuple(curve),
        samples=samples,
        data=data.digest,
        tokens=trained.tokens,
        training_s=trained.seconds,
        total_s=time.perf_counter() - began,
        general=general,
        micro=trained.micro,
    )
    context.store.save(cell, result)
    shutil.rmtree(files / "checkpoints", ignore_errors=True)
    return result


def _test(
    context: Context, model: nn.Module, spec: TrialSpec, on_tokens: Callable[[int], None]
) -> tuple[tuple[Score, ...], tuple[Score, ...]]:
    """Scores of the test split and of the general text."""
    general = context.general_subset(spec)
    found = _score(context, model, (*context.text.test, *general), spec, on_tokens)
    return found[: len(context.text.test)], found[len(context.text.test) :]


def _score(
    context: Context,
    model: nn.Module,
    documents: tuple[Document, ...],
    spec: TrialSpec,
    on_tokens: Callable[[int], None],
) -> tuple[Score, ...]:
    return perplexity.score(
        model,
        documents,
        context.separators.before,
        spec.window,
        on_tokens=on_tokens,
    )


def _samples(context: Context, model: nn.Module) -> tuple[str, ...]:
    prompts = context.prompts()
    new = perplexity.generate(model, prompts, context.separators, SAMPLE_TOKENS)
    decode = context.base.tokenizer.decode
    return tuple(f"{decode(p)}⟶{decode(n)}" for p, n in zip(prompts, new, strict=True))
