"""What the trials of one process share: the loaded base, the tokenised corpus, earlier results."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

from pressft._assets import Progress
from pressft.corpus.format import SPLITS, Corpus
from pressft.corpus.load import load_corpus
from pressft.model.base import Base, load_model
from pressft.model.tokens import Document, Separators, separators, tokenize, up_to
from pressft.spec import TrialSpec, resolve
from pressft.study.results import Store
from pressft.training import loop, packing
from pressft.training.packing import Blocks

TRAIN_COST = 2  # a token trained on takes about twice the time of one scored
PROMPT_WORDS, N_SAMPLES = 12, 3


@dataclass(frozen=True, slots=True)
class Text:
    """A corpus and its splits as documents."""

    corpus: Corpus
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """What the trials of one process share: a base model, tokenised text, earlier results."""

    base: Base
    separators: Separators
    text: Text
    general: Text | None  # about other things than the newsroom: what may be forgotten
    store: Store

    def cell(self, spec: TrialSpec) -> str:
        """Name of the spec's result on this model and corpus."""
        parts = resolve(spec.remove, self.base.n_layers)
        return spec.cell(self.base.computed, parts, self.fingerprint)

    @property
    def identity(self) -> dict[str, str]:
        """All that must stay the same while a study runs: weights, tokenizer, type and texts."""
        return {
            "weights": self.base.identity,
            "tokenizer": self.base.tokenizer_identity,
            "precision": self.base.precision,
            "corpus": self.fingerprint,
        }

    def cost(self, spec: TrialSpec) -> int:
        """Scored-token equivalents that a trial takes, for the time left."""
        validation = sum(len(d.ids) for d in self.validation_subset(spec)) * len(spec.validated_at)
        return TRAIN_COST * spec.trained_tokens + validation + self.tested_tokens(spec)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the corpus and, where there is one, of the general text."""
        texts = [self.text, *([self.general] if self.general else [])]
        return "+".join(text.corpus.fingerprint for text in texts)

    def tested_tokens(self, spec: TrialSpec) -> int:
        """Tokens scored once a model is done."""
        return sum(len(document.ids) for document in (*self.text.test, *self.general_subset(spec)))

    def validation_subset(self, spec: TrialSpec) -> tuple[Document, ...]:
        """The first documents, by id, up to `validation_tokens`, one at least: the same always."""
        return up_to(self.text.validation, spec.validation_tokens)

    def general_subset(self, spec: TrialSpec) -> tuple[Document, ...]:
        """General text that no trial trains on, up to `validation_tokens`."""
        if not self.general:
            return ()
        held_out = (*self.general.test, *self.general.validation)
        return up_to(held_out, spec.validation_tokens)

    def prompts(self) -> list[Sequence[int]]:
        """First words of the first validation texts: what samples continue."""
        texts = [article.text for article in self.text.corpus.splits.validation[:N_SAMPLES]]
        starts = [" ".join(text.split()[:PROMPT_WORDS]) for text in texts]
        return [document.ids for document in tokenize(starts, self.base.tokenizer)]


def prepare(spec: TrialSpec, store: Store, progress: Progress) -> Context:
    """Read and tokenise the corpus, load the base model; faults that are quick to find come first.

    Raises:
        UsageError, DataError, MissingError: a model or a corpus that cannot be used.
    """
    loop.check_optimizer(spec.optimizer)
    names = [spec.corpus, *([spec.general] if spec.general else [])]
    found = [load_corpus(name, progress) for name in names]
    base = load_model(spec.model, spec.quantization, progress)
    text, *general = (_tokenized(item, base) for item in found)
    between = separators(base.tokenizer)
    context = Context(base, between, text, general[0] if general else None, store)
    training_data(context, spec)
    if not gc.isenabled():  # by a command line that starts; nothing of that is ever garbage
        gc.freeze()
        gc.enable()
    return context


def _tokenized(corpus: Corpus, base: Base) -> Text:
    train, validation, test = (
        tokenize([article.text for article in corpus.splits.part(name)], base.tokenizer)
        for name in SPLITS
    )
    return Text(corpus, train, validation, test)


def training_data(context: Context, spec: TrialSpec) -> Blocks:
    """The blocks of a trial in their order, steps x batch of them.

    They depend on the texts, mix, lengths and seed, never on the arm (law 7).
    """
    wanted = spec.steps * spec.batch
    n_general = round(spec.mix * wanted)
    own = _ordered(context, context.text, spec, wanted - n_general)
    if not n_general or not context.general:
        return own
    return packing.mixed(own, _ordered(context, context.general, spec, n_general), spec.seed)


def _ordered(context: Context, text: Text, spec: TrialSpec, wanted: int) -> Blocks:
    return packing.taken(
        packing.pack(text.train, spec.block, context.separators), wanted, spec.seed
    )
