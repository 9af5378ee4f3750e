"""The loss of a model on a text, as sums that are added first and divided last.

Loss per word and per byte is defined as in lm-evaluation-harness, over the text before
tokenization. Measuring is left to `pressft.evaluation`; this module is only arithmetic, so that
reports need no torch. Only sums are passed on, so averages of averages cannot be formed.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """Summed loss over a text: natural-log units, predicted tokens, UTF-8 bytes, words."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    words: int = 0  # separated by white space

    def __add__(self, other: "Score") -> "Score":
        return total([self, other])

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of the mean loss per token."""
        return exp(self.loss)

    @property
    def word_perplexity(self) -> float:
        """exp of the mean loss per word: comparable between tokenizers."""
        return exp(self.nats / self.words)

    @property
    def byte_perplexity(self) -> float:
        """exp of the mean loss per byte: comparable between tokenizers."""
        return exp(self.nats / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits per UTF-8 byte: comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes


def total(scores: Iterable[Score]) -> Score:
    """The score of all texts together; nats are summed exactly, so their order does not matter."""
    scores = list(scores)
    return Score(
        math.fsum(score.nats for score in scores),
        sum(score.tokens for score in scores),
        sum(score.bytes for score in scores),
        sum(score.words for score in scores),
    )


def recovery(cut: float, healed: float, whole: float) -> float | None:
    """The share of the damage of a cut that training healed; 1 if none is left.

    (loss of the cut base - loss of the trained cut model) / (loss of the cut base - loss of the
    trained whole model). None if the cut did no damage.
    """
    damage = cut - whole
    return (cut - healed) / damage if damage > 0 else None


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, -1 to 1; NaN if one of the sequences does not vary."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    return statistics.correlation(_ranks(a), _ranks(b))


def _ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value; ties share their mean rank (scipy takes 2 s to import)."""
    return [sum((o < value) + (o <= value) for o in values) for value in values]


def exp(loss: float) -> float:
    """exp of a loss; infinite where it exceeds the range of a float."""
    return math.exp(loss) if loss < 709 else math.inf


def distinct_2(texts: Iterable[str]) -> float:
    """The share of distinct word pairs among all pairs of the texts (Li et al. 2016,
    arXiv:1510.03055): near 1 for prose, near 0 for repetitive text; 0 if there is no pair."""
    pairs = [pair for text in texts for pair in itertools.pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
