"""Law 4: perplexity is a sum over tokens divided once."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from pressft.evaluation import perplexity
from pressft.evaluation.generation import generate
from pressft.model import tiny
from pressft.model.tokens import Document, Separators, tokenize
from pressft.score import Score, recovery, total

BEFORE = 256


def documents(sizes: list[int], seed: int = 0) -> list[Document]:
    source = random.Random(seed)
    return [Document(tuple(source.randrange(256) for _ in range(n)), 2 * n, n) for n in sizes]


def by_hand(model: PreTrainedModel, document: Document, window: int) -> float:
    """Each token by itself: all the context its window has, no batch, no padding."""
    ids = [BEFORE, *document.ids]
    stride = window // 2
    nats = 0.0
    for target in range(1, len(ids)):
        k = max(0, math.ceil((target - window) / stride))  # number of the window it falls in
        context = torch.tensor([ids[k * stride : target]])
        with torch.no_grad():
            nats -= float(model(context).logits[0, -1].double().log_softmax(-1)[ids[target]])
    return nats


def test_law_4_a_uniform_model_scores_the_vocabulary_size(model: PreTrainedModel) -> None:
    nn.init.zeros_(model.model.norm.weight)
    for size in (1, 7, 300):
        score = total(perplexity.score(model, documents([size, size]), BEFORE, 64))
        assert score.perplexity == pytest.approx(257, rel=1e-6)


@pytest.mark.parametrize("window", [8, 16, 64])
def test_law_4_scores_equal_those_of_single_tokens(model: PreTrainedModel, window: int) -> None:
    texts = documents([1, 5, 16, 17, 40])
    found = perplexity.score(model, texts, BEFORE, window)
    for score, text in zip(found, texts, strict=True):
        assert score.nats == pytest.approx(by_hand(model, text, window), rel=1e-5)
        assert score.tokens == len(text.ids)
        assert score.bytes == text.bytes


@pytest.mark.parametrize("batch_tokens", [1, 50, 4096])
def test_law_4_batch_size_and_order_do_not_matter(
    model: PreTrainedModel, batch_tokens: int
) -> None:
    texts = documents([3, 90, 1, 33, 64])
    alone = [perplexity.score(model, [text], BEFORE, 32)[0] for text in texts]
    found = perplexity.score(model, texts, BEFORE, 32, batch_tokens=batch_tokens)
    turned = perplexity.score(model, texts[::-1], BEFORE, 32, batch_tokens=batch_tokens)[::-1]
    for one, many, other in zip(alone, found, turned, strict=True):
        assert many.nats == pytest.approx(one.nats, rel=1e-5)
        assert other.nats == pytest.approx(one.nats, rel=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(1, 80), min_size=1, max_size=6), st.integers(2, 40))
def test_law_4_every_token_is_counted_exactly_once(sizes: list[int], window: int) -> None:
    texts = [Document(tuple(range(n)), n, n) for n in sizes]
    counted: list[list[int]] = [[] for _ in sizes]
    for row in perplexity.windows(texts, BEFORE, window):
        assert len(row.ids) - 1 <= window
        counted[row.document] += row.ids[-row.n_counted :]
    assert counted == [list(text.ids) for text in texts]


def test_scoring_leaves_the_model_as_it_was(model: PreTrainedModel) -> None:
    model.train()
    perplexity.score(model, documents([5]), BEFORE, 8)
    assert model.training


def test_scoring_tells_how_far_it_is(model: PreTrainedModel) -> None:
    seen: list[int] = []
    perplexity.score(model, documents([30, 9]), BEFORE, 8, batch_tokens=16, on_tokens=seen.append)
    assert sum(seen) == 39
    assert len(seen) > 2


def test_greedy_continuations_end_at_the_end_of_text() -> None:
    model = tiny.model("tiny-llama")
    prompts = [document.ids for document in documents([5, 9])]
    found = generate(model, prompts, Separators(BEFORE, BEFORE), 6)
    for prompt, new in zip(prompts, found, strict=True):
        ids = [BEFORE, *prompt]
        expected: list[int] = []
        with torch.no_grad():
            while len(expected) < 6:
                token = int(model(torch.tensor([ids + expected])).logits[0, -1].argmax())
                if token == BEFORE:
                    break
                expected.append(token)
        assert new == expected


def test_a_worked_example_of_perplexity_and_bits_per_byte() -> None:
    # two tokens of probability 1/2 and 1/8 over four bytes: ppl = (1/16)^(-1/2), 4 bits on 4 bytes
    score = total([Score(math.log(2), 1, 2, 1), Score(math.log(8), 1, 2, 0)])
    assert score.perplexity == pytest.approx(4)
    assert score.bits_per_byte == pytest.approx(1)
    assert score.byte_perplexity == pytest.approx(2)
    assert score.word_perplexity == pytest.approx(16)


def test_word_and_byte_perplexity_are_those_of_lm_evaluation_harness() -> None:
    """Its `wikitext` task: nats of the whole text behind one prefix token, summed over texts, over
    words split at white space and bytes of the original text (its `weighted_perplexity`)."""
    model, tokenizer = tiny.model("tiny-llama"), tiny.tokenizer()
    texts = ["A new  tram, finally:\n\nfaster.", "Grüße aus Ilm"]
    found = total(perplexity.score(model, tokenize(texts, tokenizer), BEFORE, 64))
    nats = 0.0
    for text in texts:
        ids = torch.tensor([[BEFORE, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].double()
        nats += float(nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    assert found.word_perplexity == pytest.approx(math.exp(nats / (5 + 3)), rel=1e-5)
    assert found.byte_perplexity == pytest.approx(math.exp(nats / (30 + 15)), rel=1e-5)


def test_perplexity_of_a_ruined_model_is_infinite_not_an_error() -> None:
    assert Score(1e6, 1, 1).perplexity == math.inf


def test_recovery_is_the_share_of_the_damage_healed() -> None:
    cut, healed, whole = 5.0, 3.5, 3.0  # nats a token
    assert recovery(cut, healed, whole) == pytest.approx(0.75)
    assert recovery(whole, healed, cut) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), *[st.integers(1, 99)] * 3)))
def test_a_total_does_not_depend_on_the_order(rows: list[tuple[float, int, int, int]]) -> None:
    scores = [Score(*row) for row in rows]
    assert total(scores) == total(scores[::-1])
