"""Intervals hold what they promise: coverage on synthetic scores with a known truth."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import spearmanr

from pressft.report import stats
from pressft.report.stats import Interval
from pressft.score import Score, spearman

TRUE_LOSS, N_DOCUMENTS = 3.0, 40


def documents(random: np.random.Generator) -> tuple[list[int], list[float]]:
    """Lengths of documents, and what makes each hard, in nats a token."""
    tokens = random.integers(50, 400, N_DOCUMENTS).tolist()
    return tokens, random.normal(TRUE_LOSS, 0.4, N_DOCUMENTS).tolist()


def scores(tokens: list[int], losses: list[float]) -> list[Score]:
    return [Score(loss * n, n, 4 * n) for n, loss in zip(tokens, losses, strict=True)]


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "DRAWS", 1000)


def test_the_interval_of_a_perplexity_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        found = stats.perplexity([scores(*documents(random))])
        hits += math.exp(TRUE_LOSS) in found
    assert 0.90 <= hits / 400 <= 0.98


@pytest.mark.parametrize("difference", [0.0, 0.05])
def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says(
    difference: float,
) -> None:
    random = np.random.default_rng(2)
    hits = excluded = 0
    for _ in range(400):
        tokens, hard = documents(random)
        noise = random.normal(difference, 0.05, N_DOCUMENTS)
        ours = scores(tokens, [a + b for a, b in zip(hard, noise, strict=True)])
        found = stats.ratio([ours], [scores(tokens, hard)])
        hits += math.exp(difference) in found
        excluded += 1.0 not in found
    assert 0.90 <= hits / 400 <= 0.98
    if difference:
        assert excluded / 400 > 0.95  # pairing sees what two separate intervals could not


def test_pairing_is_what_makes_a_small_difference_visible() -> None:
    tokens, hard = documents(np.random.default_rng(3))
    ours, theirs = scores(tokens, [loss + 0.05 for loss in hard]), scores(tokens, hard)
    assert 1.0 not in stats.ratio([ours], [theirs])
    apart = stats.perplexity([theirs])
    assert math.exp(TRUE_LOSS + 0.05) in apart  # by itself, the other model's score fits as well


def test_a_constant_difference_has_an_interval_without_width() -> None:
    tokens, hard = documents(np.random.default_rng(4))
    ours = scores(tokens, [loss + 0.1 for loss in hard])
    found = stats.ratio([ours], [scores(tokens, hard)])
    assert (found.low, found.high) == pytest.approx((math.exp(0.1), math.exp(0.1)))


def test_seeds_that_disagree_widen_the_interval() -> None:
    tokens, hard = documents(np.random.default_rng(5))
    runs = [scores(tokens, [loss + shift for loss in hard]) for shift in (-0.3, 0.0, 0.3)]
    alone, together = stats.perplexity([runs[1]]), stats.perplexity(runs)
    assert together.high - together.low > 1.2 * (alone.high - alone.low)
    same = stats.perplexity([runs[1]] * 3)
    assert same.low == pytest.approx(alone.low, rel=0.02)


def test_intervals_are_the_same_every_time_and_in_every_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = [scores(*documents(np.random.default_rng(6)))]
    found = stats.perplexity(runs)
    assert stats.perplexity(runs) == found
    monkeypatch.setattr(stats, "CHUNK", 7 * N_DOCUMENTS)
    assert stats.perplexity(runs).low == pytest.approx(found.low, rel=0.01)


def test_other_documents_are_refused() -> None:
    one, other = [Score(1, 1, 1)], [Score(1, 1, 2)]
    with pytest.raises(ValueError, match="same documents"):
        stats.ratio([one], [other])
    assert 2 in Interval(1, 2)
    assert 3 not in Interval(1, 2)


def test_rank_correlations_are_those_of_scipy_ties_included() -> None:
    source = np.random.default_rng(7)
    a, b = source.integers(9, size=15), source.integers(9, size=15)
    assert spearman(a.tolist(), b.tolist()) == pytest.approx(spearmanr(a, b).statistic)
    drawn = np.random.default_rng(0).integers(15, size=(stats.DRAWS // 5, 15))
    theirs = [spearmanr(a[i], b[i]).statistic for i in drawn]
    found = stats.rank_correlation(a.tolist(), b.tolist())
    assert (found.low, found.high) == pytest.approx(np.quantile(theirs, [0.025, 0.975]))


def test_whoever_only_looks_waits_for_no_scipy() -> None:
    code = "import sys, pressft.report.status, pressft.report.terminal; "
    code += "print({'scipy', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
