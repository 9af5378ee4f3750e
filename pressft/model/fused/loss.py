"""The output head apart from the layers under it: a loss that never holds the logits of a batch.

SmolLM2 has 49,152 words in its vocabulary, Qwen3 151,936: the logits of 1,024 tokens are 200 MB, or
600, and cross entropy makes two more of that size. Here they are made for a part of the tokens at a
time, and since the head is frozen, their gradient is used up at once (the idea is that of Liger
Kernel, Hsu et al. 2024, arXiv:2410.10989). The arithmetic is that of cross entropy over all of
them, in another order.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ROWS = {"cpu": 512, "cuda": 1024}  # tokens whose logits are held at a time: fewer are slower
TRIED = 4  # tokens on which a head is compared with its model
APART = 1e-4  # of the largest logit: between the two ways to them

_known: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Head:
    """The linear map from hidden states to logits, and the layers that make the hidden states."""

    decoder: Any
    linear: nn.Linear

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states (rows, tokens, width) of ids (rows, tokens)."""
        output = self.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, vocabulary) of hidden states (N, width), in float32."""
        return nn.functional.linear(hidden, self.linear.weight, self.linear.bias).float()

    def nats(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Loss of each of N targets, (N,) float32, without a gradient."""
        found: list[Tensor] = [
            nn.functional.cross_entropy(self.logits(rows), right, reduction="none")
            for rows, right in zip(_few(hidden), _few(targets), strict=True)
        ]
        return torch.cat(found)

    def loss_of(self, ids: Tensor) -> Tensor:
        """Summed loss of every next token of ids (rows, tokens), a scalar with a gradient."""
        hidden = self.hidden(ids)[:, :-1]
        return self.loss(hidden.reshape(-1, hidden.shape[-1]), ids[:, 1:].reshape(-1))

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Summed loss of N targets, a scalar that hidden states (N, width) have a gradient of."""
        loss: Tensor = _Summed.apply(hidden, targets, self)  # type: ignore[no-untyped-call]
        return loss


def of(model: nn.Module) -> Head | None:
    """The frozen head of a language model, PEFT's wrapper or none around it; None where the logits
    are more than a linear map of the last hidden state (capped, scaled), or the head is trained."""
    inner: Any = model
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    linear = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if type(linear) is not nn.Linear or any(p.requires_grad for p in linear.parameters()):
        return None
    head = Head(inner.get_decoder(), linear)
    if linear not in _known:
        _known[linear] = _is_all(head, inner)
    return head if _known[linear] else None


def _few(rows: Tensor) -> tuple[Tensor, ...]:
    """Views of ROWS rows each, the last of what is left."""
    return torch.split(rows, ROWS[rows.device.type])


@torch.no_grad()
def _is_all(head: Head, model: nn.Module) -> bool:
    """Whether decoder and head make the logits of the model, tried on a few tokens."""
    ids = torch.arange(TRIED, device=head.linear.weight.device)[None]
    theirs = model(input_ids=ids, use_cache=False).logits.float()
    ours = head.logits(head.hidden(ids)[0])[None]
    return bool((ours - theirs).abs().max() <= APART * theirs.abs().max())


class _Summed(torch.autograd.Function):
    """Cross entropy behind a frozen head, the gradient made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head) -> Tensor:  # noqa: ANN401
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        parts = zip(_few(hidden), _few(targets), _few(gradient), strict=True)
        for rows, right, out in parts:
            logs, at = head.logits(rows).log_softmax(1), right[:, None]
            total -= logs.gather(1, at).double().sum()
            slope = logs.exp_()  # the probabilities, less one where it is right
            slope.scatter_add_(1, at, torch.full_like(at, -1, dtype=slope.dtype))
            torch.mm(slope.to(head.linear.weight.dtype), head.linear.weight, out=out)
        ctx.save_for_backward(gradient)
        return total.float()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None
