"""Trials as the ledger knows them: one row each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pressft.spec import Value

if TYPE_CHECKING:
    from pressft.study.storage import Found

RESTING = "waiting"  # Optuna's word for a trial that is to be taken up


@dataclass(frozen=True, slots=True)
class Row:
    """A trial as the ledger knows it; `value` is the validation loss in nats a token."""

    number: int
    state: str  # waiting, running, complete, pruned, fail
    params: Mapping[str, Value]
    value: float | None
    attrs: Mapping[str, Any]
    key: str  # of its params

    @property
    def arm(self) -> str:
        """Value of `remove`, as named in the study."""
        return str(self.params["remove"])

    @property
    def is_done(self) -> bool:
        """Whether its cell is not to be run again: trained to its end, or ended early."""
        return self.state in {"complete", "pruned"}

    @property
    def rests(self) -> bool:
        """Whether it waits at a rung, saved, for others of its arm."""
        return self.state == RESTING and "losses" in self.attrs

    @property
    def is_open(self) -> bool:
        """Whether it is at work, or rests."""
        return self.state == "running" or self.rests

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Tokens seen, validation loss there, as far as they were noted."""
        return [(int(tokens), float(loss)) for tokens, loss in self.attrs.get("losses", ())]

    @property
    def tokens(self) -> int:
        """Seen at its last validation, as far as it was noted."""
        return max((tokens for tokens, _ in self.losses), default=0)


def row_of(found: "Found") -> Row:
    """A stored trial as a row."""
    attrs = dict(found.attrs)
    params = attrs.pop("params")
    return Row(found.number, found.state.name.lower(), params, found.value, attrs, key(params))


def key(params: Mapping[str, Value]) -> str:
    """The same text for the same params."""
    return json.dumps(dict(params), sort_keys=True)
