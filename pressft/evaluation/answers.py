"""What a model answers: it continues prompts, greedy and sampled, and is scored on right answers.

The base, the cut base, the healed model and the trained whole model get the same prompts, so that
their texts and scores can be compared.
"""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase

from pressft.evaluation import perplexity
from pressft.evaluation.generation import generate
from pressft.evaluation.perplexity import Window
from pressft.model.tokens import Separators, separators, tokenize
from pressft.score import Score
from pressft.study.prompts import Prompts, Question
from pressft.study.results import Answers

NEW_TOKENS = 48
SAMPLING_SEED = 0
VERSION = 1  # raise it when the same prompts would be answered otherwise


def key(prompts: Prompts) -> str:
    """Name of the answers to these prompts and questions."""
    return f"{VERSION}-{prompts.key}"


def answer(model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Prompts) -> Answers:
    """Continuations of the prompts, greedy and sampled, and the scores of the right answers."""
    between = separators(tokenizer)
    starts = [document.ids for document in tokenize(prompts.prompts, tokenizer)]

    def continued(seed: int | None) -> tuple[str, ...]:
        new = generate(model, starts, between, NEW_TOKENS, seed=seed)
        return tuple(tokenizer.decode(ids) for ids in new)

    scores = _scores(model, tokenizer, between, prompts.questions)
    return Answers(key(prompts), continued(None), continued(SAMPLING_SEED), scores)


def _scores(
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
