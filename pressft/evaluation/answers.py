"""Letting a model read: it continues prompts, greedy and sampled, and is scored on right answers.

Its base, the cut base, the healed and the whole trained model read the same material, so that
their words and answers can stand side by side.
"""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase

from pressft.evaluation import perplexity
from pressft.evaluation.perplexity import Window
from pressft.model.tokens import Separators, separators, tokenize
from pressft.score import Score
from pressft.study.prompts import Material, Question
from pressft.study.results import Reading

NEW_TOKENS = 48
SAMPLING_SEED = 0
VERSION = 1  # raise it when the same material would be read otherwise


def key(material: Material) -> str:
    """Name of a reading of this material."""
    return f"{VERSION}-{material.key}"


def read(model: nn.Module, tokenizer: PreTrainedTokenizerBase, material: Material) -> Reading:
    """What `model` makes of the material."""
    between = separators(tokenizer)
    prompts = [document.ids for document in tokenize(material.prompts, tokenizer)]

    def continued(seed: int | None) -> tuple[str, ...]:
        new = perplexity.generate(model, prompts, between, NEW_TOKENS, seed=seed)
        return tuple(tokenizer.decode(ids) for ids in new)

    answers = _answers(model, tokenizer, between, material.questions)
    return Reading(key(material), continued(None), continued(SAMPLING_SEED), answers)


def _answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    between: Separators,
    questions: Sequence[Question],
) -> tuple[Score, ...]:
    """Score of each right answer behind its question, of the answer's tokens alone."""
    asked = tokenize([f"Question: {q.question}\nAnswer:" for q in questions], tokenizer)
    right = tokenize([f" {q.answer}" for q in questions], tokenizer)
    rows = [
        Window(number, (between.before, *question.ids, *answer.ids), len(answer.ids))
        for number, (question, answer) in enumerate(zip(asked, right, strict=True))
    ]
    nats = perplexity.nats(model, rows, len(rows))
    return tuple(
        Score(value, len(answer.ids), answer.bytes, answer.words)
        for value, answer in zip(nats, right, strict=True)
    )
