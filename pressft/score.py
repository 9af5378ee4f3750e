"""What a text costs a model: sums of nats over tokens, added freely and divided last.

Per word and per byte as in lm-evaluation-harness: over the text as it was before tokenization.

Measuring is left to `pressft.evaluation`; here is only arithmetic, so that reports need no
torch. Averages of averages cannot be formed: only sums travel.
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
    words: int = 0  # between white space

    def __add__(self, other: "Score") -> "Score":
        """Score of both texts."""
        return total([self, other])

    @property
    def loss(self) -> float:
        """Mean loss, nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of the mean loss a token."""
        return exp(self.loss)

    @property
    def word_perplexity(self) -> float:
        """exp of the mean loss a word: comparable between tokenizers."""
        return exp(self.nats / self.words)

    @property
    def byte_perplexity(self) -> float:
        """exp of the mean loss a byte: comparable between tokenizers."""
        return exp(self.nats / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits over UTF-8 bytes: comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes


def total(scores: Iterable[Score]) -> Score:
    """Score of all the texts together; nats are summed exactly, so the order does not matter."""
    scores = list(scores)
    return Score(
        math.fsum(score.nats for score in scores),
        sum(score.tokens for score in scores),
        sum(score.bytes for score in scores),
        sum(score.words for score in scores),
    )


def recovery(cut: float, healed: float, whole: float) -> float | None:
    """Share of the damage of a cut that training healed, 1 where nothing of it is left.

    (loss of the cut base - loss of the trained cut model) over (loss of the cut base - loss of the
    trained whole model). None where the cut did no damage to heal.
    """
    damage = cut - whole
    return (cut - healed) / damage if damage > 0 else None


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, -1 to 1; not a number where one of them does not vary."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    return statistics.correlation(_ranks(a), _ranks(b))


def _ranks(values: Sequence[float]) -> list[int]:
    """Twice the mean rank of each; equal values share one (scipy's take 2 s to import)."""
    return [sum((o < value) + (o <= value) for o in values) for value in values]


def exp(loss: float) -> float:
    """exp, infinite where that leaves the range of a float."""
    return math.exp(loss) if loss < 709 else math.inf


def distinct_2(texts: Iterable[str]) -> float:
    """Share of different word pairs among all of the texts (Li et al. 2016, arXiv:1510.03055):
    near 1 for prose, near 0 where a model repeats itself; 0 where there is no pair."""
    pairs = [pair for text in texts for pair in itertools.pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
