"""What a model makes of prompts and questions, against the model asked token by token."""

from collections.abc import Callable

import pytest
import torch

from pressft.evaluation import answers
from pressft.model import surgery
from pressft.model.base import Base
from pressft.model.tokens import separators
from pressft.score import distinct_2
from pressft.study.prompts import Prompts, Question

MATERIAL = Prompts(
    ("The ferry left", "A tram", "Osthafen orders three more of"),
    (Question("Where is it built?", "Brelin"), Question("Who said so?", "Ada Brandt")),
)


@pytest.fixture
def base(load: Callable[..., Base]) -> Base:
    return load("tiny-llama")


def test_right_answers_are_scored_behind_their_questions(base: Base) -> None:
    found = answers.answer(base.model, base.tokenizer, MATERIAL)
    before = separators(base.tokenizer).before
    for asked, score in zip(MATERIAL.questions, found.scores, strict=True):
        prompt = base.tokenizer(f"Question: {asked.question}\nAnswer:", add_special_tokens=False)
        answer = base.tokenizer(f" {asked.answer}", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[before, *prompt["input_ids"], *answer]])
        with torch.no_grad():
            logits = base.model(ids).logits[0, :-1].double().log_softmax(-1)
        expected = -logits[-len(answer) :].gather(1, ids[0, -len(answer) :, None]).sum()
        assert score.nats == pytest.approx(float(expected), rel=1e-5)
        assert score.tokens == len(answer)


def test_sampling_is_seeded_and_leaves_the_random_state(base: Base) -> None:
    state = torch.random.get_rng_state()
    one, two = (answers.answer(base.model, base.tokenizer, MATERIAL) for _ in range(2))
    assert one == two
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(one.greedy) == len(one.sampled) == 3
    assert one.sampled != one.greedy
    assert one.key == answers.key(MATERIAL)


@pytest.mark.parametrize("parts", [(1,), ("attention:0",), ("mlp:2",)])
def test_a_batch_of_prompts_is_continued_as_each_alone(
    base: Base, parts: tuple[int | str, ...]
) -> None:
    with surgery.removed(base.model, parts):
        together = answers.answer(base.model, base.tokenizer, MATERIAL).greedy
        alone = [
            answers.answer(base.model, base.tokenizer, Prompts((prompt,))).greedy[0]
            for prompt in MATERIAL.prompts
        ]
    assert list(together) == alone


def test_distinct_2_counts_word_pairs() -> None:
    assert distinct_2(["a b c", "a b d"]) == pytest.approx(3 / 4)
    assert distinct_2(["to and to and to"]) == pytest.approx(2 / 4)
    assert distinct_2(["one", ""]) == 0
