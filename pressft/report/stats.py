"""How sure a score is: bootstrap intervals over documents, and over seeds where there are several.

The documents are the sample: another newsroom day would have brought others. They are drawn again
with replacement, nats and tokens together, and the loss is formed of the sums each time (percentile
bootstrap, Efron & Tibshirani 1993, chapter 13). Two models are compared on the same draws of the
same documents (paired; Koehn 2004), so that what makes a text hard for both cancels out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pressft.score import Score, exp

LEVEL = 0.95
DRAWS = 10_000
CHUNK = 2_000_000  # indices drawn at a time: 16 MB

Runs = Sequence[Sequence[Score]]  # one row a seed, one score a document, documents alike


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95% interval, both ends included."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        """Whether a value lies inside."""
        return isinstance(value, int | float) and self.low <= value <= self.high


def perplexity(runs: Runs, seed: int = 0) -> Interval:
    """Of the perplexity of a model, or of the geometric mean over its seeds."""
    return _percentiles(np.concatenate(_losses([runs], seed)[0]))


def ratio(runs: Runs, reference: Runs, *, comparisons: int = 1, seed: int = 0) -> Interval:
    """Of the perplexity over that of `reference`, on the same documents: 1 is no difference.

    Of several `comparisons` each interval is wider, so that all of them hold at once at the level
    of one (Bonferroni).

    Raises:
        ValueError: other documents.
    """
    if [s.bytes for s in runs[0]] != [s.bytes for s in reference[0]]:
        raise ValueError("paired scores need the same documents in the same order")
    ours, theirs = _losses([runs, reference], seed)
    return _percentiles(np.concatenate(ours) - np.concatenate(theirs), comparisons)


def rank_correlation(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """Of Spearman's rank correlation, over the pairs, which are drawn again with replacement."""
    random = np.random.default_rng(seed)
    drawn = random.integers(len(a), size=(DRAWS // 5, len(a)))
    ranks = [_ranks(np.asarray(side, dtype=np.float64)[drawn]) for side in (a, b)]
    ours, theirs = (side - side.mean(1, keepdims=True) for side in ranks)
    spread = np.sqrt((ours**2).sum(1) * (theirs**2).sum(1))
    found = (ours * theirs).sum(1)[spread > 0] / spread[spread > 0]
    low, high = np.quantile(found, _tails(1)) if len(found) else (-1.0, 1.0)
    return Interval(float(low), float(high))


def _ranks(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean rank of each value in its row, but for a constant; equal values share one."""
    left, right = rows[:, :, None], rows[:, None, :]
    return np.asarray((left > right).sum(2) + (left == right).sum(2) / 2)


def _losses(sides: Sequence[Runs], seed: int) -> list[list[NDArray[np.float64]]]:
    """Mean loss of each side in each draw, in chunks; all sides share the documents drawn."""
    random = np.random.default_rng(seed)
    tables = [
        (
            np.array([[score.nats for score in run] for run in runs]),
            np.array([score.tokens for score in runs[0]], dtype=np.float64),
        )
        for runs in sides
    ]
    n_documents = len(sides[0][0])
    found: list[list[NDArray[np.float64]]] = [[] for _ in sides]
    chunk = max(1, min(DRAWS, CHUNK // n_documents))
    for start in range(0, DRAWS, chunk):
        n = min(chunk, DRAWS - start)
        drawn = random.integers(n_documents, size=(n, n_documents))
        for (nats, tokens), losses in zip(tables, found, strict=True):
            n_seeds = len(nats)
            weight = np.ones((n, 1)) if n_seeds == 1 else _shares(random, n, n_seeds)
            summed = np.stack([row[drawn].sum(1) for row in nats], axis=1)
            losses.append((summed * weight).sum(1) / tokens[drawn].sum(1))
    return found


def _shares(random: np.random.Generator, n: int, n_seeds: int) -> NDArray[np.float64]:
    """How often each seed is drawn, as a share: (n, n_seeds), rows summing to 1."""
    return random.multinomial(n_seeds, [1 / n_seeds] * n_seeds, size=n) / n_seeds


def _percentiles(losses: NDArray[np.float64], comparisons: int = 1) -> Interval:
    low, high = np.quantile(losses, _tails(comparisons))
    return Interval(exp(float(low)), exp(float(high)))


def _tails(comparisons: int) -> list[float]:
    tail = (1 - LEVEL) / 2 / comparisons
    return [tail, 1 - tail]
