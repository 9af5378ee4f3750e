"""One trial on one page: cut, adapt, train, score, restore.

What follows from a training step is left to the caller; nothing here knows of Optuna or MLflow.
"""

import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pressft._files import digest
from pressft.context import TRAIN_COST, Context, training_data
from pressft.errors import PressftError
from pressft.evaluation import generation, perplexity
from pressft.model import adapter, repair, surgery
from pressft.model.layers import count
from pressft.model.tokens import Document, up_to
from pressft.score import Score, total
from pressft.spec import CELL_VERSION, Removal, TrialSpec, resolve
from pressft.study.results import Point, TrialResult, Untrained
from pressft.training import loop
from pressft.training.loop import Step

Advance = Callable[[str, int], None]  # what is being done, scored-token equivalents done just now
Say = Callable[[str], None]  # a line worth keeping

CALIBRATION_TOKENS = 2048  # of training text, for a repair
SAMPLE_TOKENS = 32
REMEDY = "choose a lower learning rate"


class DivergedError(PressftError):
    """The loss left the finite numbers; the same cell would diverge again."""

    exit_code = 4


def _ignore(*_: object) -> None:
    """Do nothing with what is told."""


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
        scales = repair.gaps(model, parts, [torch.tensor([row.ids]) for row in rows])
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
            sum(count(parameter) for parameter in model.parameters()),
            test,
            _samples(context, model),
            general,
        )
    context.store.save(key, result)
    return result


def steps(
    context: Context, spec: TrialSpec, advance: Advance = _ignore, say: Say = _ignore
) -> Generator[Step, None, None]:
    """Cut, adapt, train, score one cell and keep its files; the base is left as it was (law 2).

    Yields the steps of the training: between two of them the caller logs, saves, stops. It resumes
    from the cell's newest whole checkpoint, if there is one (law 10). Once the last step is taken
    the test split is scored, and when the steps are exhausted the result is in `context.store`.

    Raises:
        DivergedError: a loss that is not finite, once its step has been yielded.
        DataError: too little text for a block.
        UsageError: a layer out of range, an optimizer this machine cannot run.
    """
    began = time.perf_counter()
    cell, data = context.cell(spec), training_data(context, spec)
    files, subset = context.store.folder(cell), context.validation_subset(spec)
    validation, curve = Score(), list[Point]()

    def progress(what: str) -> Callable[[int], None]:
        return lambda n: advance(f"{spec.remove}: {what}", n)

    with (
        cut(context, spec) as removal,
        adapter.attached(context.base.model, spec.rank, spec.seed) as model,
    ):
        for step in loop.steps(model, data, spec, files / "checkpoints", say):
            if step.point:
                seen = curve[-1].tokens if curve else 0
                progress("training")(TRAIN_COST * (step.tokens - seen))
                curve.append(step.point)
            if step.number in spec.validated_at and not step.replayed and not step.diverged:
                validation = total(_score(context, model, subset, spec, progress("validating")))
                step.validated(validation)
            yield step
            if step.diverged:
                loss = step.metrics["train/loss"]
                raise DivergedError(f"loss {loss} after {step.tokens:,} tokens: {REMEDY}")
        test, general = _test(context, model, spec, progress("testing"))
        samples = _samples(context, model)
        adapter.save(model, removal, context.base, files / "adapter")
    result = TrialResult(
        cell=cell,
        removal=removal,
        validation=validation,
        test=test,
        curve=tuple(curve),
        samples=samples,
        data=data.digest,
        tokens=step.tokens,
        training_s=step.seconds,
        total_s=time.perf_counter() - began,
        general=general,
        micro=step.micro,
    )
    context.store.save(cell, result)
    shutil.rmtree(files / "checkpoints", ignore_errors=True)


def run_trial(context: Context, spec: TrialSpec, advance: Advance = _ignore) -> TrialResult:
    """The result of one trial, trained to its end.

    Raises:
        As `steps`.
    """
    for _ in steps(context, spec, advance):
        pass
    return context.store.known(context.cell(spec))


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
    new = generation.generate(model, prompts, context.separators, SAMPLE_TOKENS)
    decode = context.base.tokenizer.decode
    return tuple(f"{decode(p)}⟶{decode(n)}" for p, n in zip(prompts, new, strict=True))
