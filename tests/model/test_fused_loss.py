"""A loss without the logits is the loss with them, and only where the model has no more to say."""

import pytest
import torch
from families import FAMILIES, make
from torch import nn
from transformers import PreTrainedModel

from pressft.evaluation import perplexity
from pressft.model import tiny
from pressft.model.fused import loss
from pressft.model.fused.loss import ROWS, Head
from pressft.model.tokens import Document

WIDTH, WORDS = 8, 50


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n", [1, ROWS["cpu"], 2 * ROWS["cpu"] + 3])
def test_loss_and_gradient_are_those_of_cross_entropy(n: int, *, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(WIDTH, WORDS, bias=bias).requires_grad_(False)
    hidden, targets = torch.randn(n, WIDTH), torch.randint(0, WORDS, (n,))
    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    head = Head(nn.Identity(), linear)
    loss = head.loss(ours, targets)
    expected = nn.functional.cross_entropy(linear(theirs), targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(head.nats(hidden, targets).sum(), expected.detach())
    (2 * loss).backward()
    (2 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_every_family_have_a_head(name: str) -> None:
    assert loss.of(frozen(make(name))) is not None


@pytest.fixture
def llama() -> PreTrainedModel:
    return frozen(tiny.model("tiny-llama"))


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    return model.eval().requires_grad_(False)


def test_a_head_that_is_trained_is_left_to_its_model(llama: PreTrainedModel) -> None:
    llama.get_output_embeddings().requires_grad_(True)
    assert loss.of(llama) is None


def capped(model: PreTrainedModel) -> None:
    """Logits as those of Gemma 2 are: they come out of a hyperbolic tangent."""

    def cap(_: nn.Module, __: object, output: object) -> None:
        output.logits = torch.tanh(output.logits)

    model.register_forward_hook(cap)


def test_logits_that_are_more_than_the_head_are_left_to_the_model(llama: PreTrainedModel) -> None:
    capped(llama)
    assert loss.of(llama) is None


def test_both_ways_to_a_score_agree(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [Document(tuple(range(5, 5 + n)), n, 1) for n in (1, 40, 3, 90)]
    found = perplexity.score(llama, documents, 256, 32)
    asked: list[nn.Module] = []
    monkeypatch.setattr(loss, "of", asked.append)
    again = perplexity.score(llama, documents, 256, 32)
    assert asked
    for one, other in zip(found, again, strict=True):
        assert one.nats == pytest.approx(other.nats, rel=1e-6)
        assert one.tokens == other.tokens
