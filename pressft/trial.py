"""One trial on one page: cut, adapt, train, score, restore; and what trials share.

Numbers go to the caller's `on_point`; nothing here knows of Optuna or MLflow.
"""

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pressft import adapters, blocks, corpora, models, scoring, surgery, training
from pressft.assets import Progress
from pressft.blocks import Blocks, Document, Separators
from pressft.corpus import SPLITS, Corpus
from pressft.results import Store, TrialResult, Untrained
from pressft.scores import Score, total
from pressft.spec import CELL_VERSION, Removal, TrialSpec, resolve
from pressft.training import OnPoint, Safety

Advance = Callable[[str, int], None]  # what is being done, scored-token equivalents done just now

TRAIN_COST = 2  # a token trained on takes about twice the time of one scored
CALIBRATION_TOKENS = 2048  # of training text, for a repair
PROMPT_WORDS, SAMPLE_TOKENS, N_SAMPLES = 12, 32, 3


@dataclass(frozen=True, slots=True)
class Text:
    """A corpus and its splits as documents."""

    corpus: Corpus
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class Bench:
    """What the trials of one process share: a base model, tokenised text, earlier results."""

    base: models.Base
    separators: Separators
    text: Text
    general: Text | None  # none of it about the newsroom: what may be forgotten
    store: Store

    def cell(self, spec: TrialSpec) -> str:
        """Name of the spec's result on this model and corpus."""
        parts = resolve(spec.remove, self.base.n_layers)
        return spec.cell(self.base.identity, parts, self.fingerprint)

    def cost(self, spec: TrialSpec) -> int:
        """Scored-token equivalents that a trial takes, for the time left."""
        validation = sum(len(d.ids) for d in self.validation_subset(spec)) * len(spec.validated_at)
        return TRAIN_COST * spec.trained_tokens + validation + self.tested_tokens(spec)

    @property
    def fingerprint(self) -> str:
        """Of the corpus and, where there is one, the general text."""
        texts = [self.text, *([self.general] if self.general else [])]
        return "+".join(text.corpus.fingerprint for text in texts)

    def tested_tokens(self, spec: TrialSpec) -> int:
        """Tokens scored once a model is done."""
        return sum(len(document.ids) for document in (*self.text.test, *self.general_subset(spec)))

    def validation_subset(self, spec: TrialSpec) -> tuple[Document, ...]:
        """The first documents, by id, up to `validation_tokens`, one at least: the same always."""
        return blocks.up_to(self.text.validation, spec.validation_tokens)

    def general_subset(self, spec: TrialSpec) -> tuple[Document, ...]:
        """General text that no trial trains on, up to `validation_tokens`."""
        if not self.general:
            return ()
        held_out = (*self.general.test, *self.general.validation)
        return blocks.up_to(held_out, spec.validation_tokens)

    def prompts(self) -> list[Sequence[int]]:
        """First words of the first validation texts: what samples continue."""
        texts = [article.text for article in self.text.corpus.splits.validation[:N_SAMPLES]]
        starts = [" ".join(text.split()[:PROMPT_WORDS]) for text in texts]
        return [document.ids for document in blocks.tokenize(starts, self.base.tokenizer)]


def prepare(spec: TrialSpec, store: Store, progress: Progress) -> Bench:
    """Corpus read and tokenised, base model loaded; the cheap and the likely faults come first.

    Raises:
        UsageError, DataError, MissingError: as the rooms it calls.
    """
    training.check_optimizer(spec.optimizer)
    names = [spec.corpus, *([spec.general] if spec.general else [])]
    found = [corpora.find(name, progress) for name in names]
    base = models.load(models.resolve(spec.model), spec.quantization, progress)
    text, *general = (_tokenized(item, base) for item in found)
    between = blocks.separators(base.tokenizer)
    bench = Bench(base, between, text, general[0] if general else None, store)
    training_data(bench, spec)
    if not gc.isenabled():  # by a command line that starts; nothing of that is ever garbage
        gc.freeze()
        gc.enable()
    return bench


def _tokenized(corpus: Corpus, base: models.Base) -> Text:
    train, validation, test = (
        blocks.tokenize([article.text for article in corpus.splits.part(name)], base.tokenizer)
        for name in SPLITS
    )
    return Text(corpus, train, validation, test)


def untrained_key(bench: Bench, spec: TrialSpec) -> str:
    """Name of the scores of the spec's cut before training: rank and the like do not matter."""
    parts = resolve(spec.remove, bench.base.n_layers)
    what = [CELL_VERSION, bench.base.identity, parts, bench.fingerprint]
    what += [spec.window, spec.quantization]
    what += [spec.validation_tokens] if bench.general else []
    what += [spec.repair] if spec.repairs(parts) else []
    identity = json.dumps(what)
    return f"untrained-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


@contextmanager
def cut(bench: Bench, spec: TrialSpec) -> Iterator[Removal]:
    """The base without what the spec removes, repaired where it asks for that; put back after."""
    model = bench.base.model
    parts = resolve(spec.remove, bench.base.n_layers)
    scales: tuple[float, ...] = ()
    if spec.repairs(parts):
        text = blocks.up_to(bench.text.train, CALIBRATION_TOKENS)
        rows = scoring.windows(text, bench.separators.before, spec.window)
        scales = surgery.gaps(model, parts, [torch.tensor([row.ids]) for row in rows])
    with surgery.removed(model, parts, scales) as removal:
        yield removal


def untrained(bench: Bench, spec: TrialSpec, advance: Advance) -> Untrained:
    """Scores of the spec's cut before training, from an earlier run where there is one (law 8)."""
    key = untrained_key(bench, spec)
    if found := bench.store.untrained(key):
        advance(f"{spec.remove}: known", bench.tested_tokens(spec))
        return found
    model = bench.base.model
    with cut(bench, spec) as removal:
        label = f"{spec.remove}: scoring untrained"
        test, general = _test(bench, model, spec, lambda n: advance(label, n))
        result = Untrained(
            removal,
            sum(surgery.count(parameter) for parameter in model.parameters()),
            test,
            _samples(bench, model),
            general,
        )
    bench.store.save(key, result)
    return result


def run_trial(
    bench: Bench,
    spec: TrialSpec,
    on_point: OnPoint,
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
    cell = bench.cell(spec)
    curve: list[tuple[int, dict[str, float]]] = []
    data = training_data(bench, spec)
    subset = bench.validation_subset(spec)

    def tell(tokens: int, metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            before = max((at for at, seen in curve if "train/loss" in seen), default=0)
            advance(f"{spec.remove}: training", TRAIN_COST * (tokens - before))
        curve.append((tokens, metrics))
        on_point(tokens, metrics)

    with (
        cut(bench, spec) as removal,
        adapters.attached(bench.base.model, spec.rank, spec.seed) as model,
    ):

        def validate() -> Score:
            label = f"{spec.remove}: validating"
            return total(_score(bench, model, subset, spec, lambda n: advance(label, n)))

        files = bench.store.folder(cell)
        kept = safety(files / "checkpoints")
        trained = training.train(model, data, spec, validate, tell, kept)
        label = f"{spec.remove}: testing"
        test, general = _test(bench, model, spec, lambda n: advance(label, n))
        samples = _samples(bench, model)
        adapters.save(model, removal, bench.base.name, bench.base.identity, files / "adapter")
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
    bench.store.save(cell, result)
    shutil.rmtree(files / "checkpoints", ignore_errors=True)
    return result


def training_data(bench: Bench, spec: TrialSpec) -> Blocks:
    """The blocks of a trial in their order, steps x batch of them.

    They depend on the texts, mix, lengths and seed, never on the arm (law 7).
    """
    wanted = spec.steps * spec.batch
    n_general = round(spec.mix * wanted)
    own = _ordered(bench, bench.text, spec, wanted - n_general)
    if not n_general or not bench.general:
        return own
    return blocks.mixed(own, _ordered(bench, bench.general, spec, n_general), spec.seed)


def _ordered(bench: Bench, text: Text, spec: TrialSpec, wanted: int) -> Blocks:
    return blocks.taken(blocks.pack(text.train, spec.block, bench.separators), wanted, spec.seed)


def _test(
    bench: Bench, model: nn.Module, spec: TrialSpec, on_tokens: Callable[[int], None]
) -> tuple[tuple[Score, ...], tuple[Score, ...]]:
    """Scores of the test split and of the general text."""
    general = bench.general_subset(spec)
    found = _score(bench, model, (*bench.text.test, *general), spec, on_tokens)
    return found[: len(bench.text.test)], found[len(bench.text.test) :]


def _score(
    bench: Bench,
    model: nn.Module,
    documents: tuple[Document, ...],
    spec: TrialSpec,
    on_tokens: Callable[[int], None],
) -> tuple[Score, ...]:
    return scoring.score(
        model,
        documents,
        bench.separators.before,
        spec.window,
        on_tokens=on_tokens,
    )


def _samples(bench: Bench, model: nn.Module) -> tuple[str, ...]:
    prompts = bench.prompts()
    new = scoring.generate(model, prompts, bench.separators, SAMPLE_TOKENS)
    decode = bench.base.tokenizer.decode
    return tuple(f"{decode(p)}⟶{decode(n)}" for p, n in zip(prompts, new, strict=True))
