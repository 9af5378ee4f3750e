"""Continuing prompts, greedy or sampled, many at a time."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pressft.evaluation.perplexity import evaluating
from pressft.model.tokens import Separators

BATCH_ROWS = 16  # texts continued at a time: a few cost little more than one


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    between: Separators,
    n_new: int,
    *,
    seed: int | None = None,
) -> list[list[int]]:
    """Continuations of each prompt: at most `n_new` ids each, the end of text not included.

    Greedy, or with a `seed` drawn: temperature 0.8 from the likeliest 95%. The global random state
    is left as it was.
    """
    found: list[list[int]] = []
    how: dict[str, object] = {"do_sample": False}
    if seed is not None:
        how = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
    with evaluating(model), torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        for start in range(0, len(prompts), BATCH_ROWS):
            batch = prompts[start : start + BATCH_ROWS]
            found += _continued(model, batch, between, n_new, how)
    return found


def _continued(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    between: Separators,
    n_new: int,
    how: Mapping[str, object],
) -> list[list[int]]:
    """A batch, padded on the left, where the mask hides it."""
    longest = max(map(len, prompts)) + 1
    ids = torch.full((len(prompts), longest), between.end)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) - 1 :] = torch.tensor([between.before, *prompt])
        mask[row, longest - len(prompt) - 1 :] = 1
    device = next(model.parameters()).device
    output = model.generate(  # type: ignore[operator]
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=n_new,
        eos_token_id=between.end,
        pad_token_id=between.end,
        **how,
    )
    rows = output[:, longest:].tolist()
    return [row[: row.index(between.end)] if between.end in row else row for row in rows]
