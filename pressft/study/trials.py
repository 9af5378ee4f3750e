"""A trial as its study stores it, in whatever state."""

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pressft.spec import TrialSpec, Value

PAUSED = "waiting"  # Optuna's state of a trial that is still to be run


@dataclass(frozen=True, slots=True)
class Trial:
    """A stored trial: its state, and the fields in which it differs from the study's `base` spec.

    `value` is the validation loss in nats per token; `attrs` are its user attributes, as JSON.
    """

    number: int
    state: str  # waiting, running, complete, pruned, fail
    params: Mapping[str, Value]
    value: float | None
    attrs: Mapping[str, Any]
    base: TrialSpec = field(default_factory=TrialSpec, repr=False)
    id: int = -1  # in Optuna's storage
    key: str = field(init=False, repr=False)  # equal for equal params

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", key(self.params))

    @property
    def spec(self) -> TrialSpec:
        """All settings of the trial."""
        return dataclasses.replace(self.base, **dict(self.params))  # type: ignore[arg-type]

    @property
    def arm(self) -> str:
        """Value of `remove`, as named in the study."""
        return str(self.params["remove"])

    @property
    def cell(self) -> str:
        """The name of its result, "" before it has one."""
        return str(self.attrs.get("cell", ""))

    @property
    def worker(self) -> str:
        """The name of the process that runs it, or ran it last."""
        return str(self.attrs.get("worker", ""))

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, and changes no more."""
        return self.state in {"complete", "pruned", "fail"}

    @property
    def is_done(self) -> bool:
        """Whether its cell needs no other run: trained to its end, or pruned."""
        return self.state in {"complete", "pruned"}

    @property
    def is_paused(self) -> bool:
        """Whether it is saved at a rung, and waits for other trials of its arm."""
        return self.state == PAUSED and "losses" in self.attrs

    @property
    def is_open(self) -> bool:
        """Whether it is running or paused."""
        return self.state == "running" or self.is_paused

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Tokens seen at each known validation, with the loss there."""
        return [(int(tokens), float(loss)) for tokens, loss in self.attrs.get("losses", ())]

    @property
    def tokens(self) -> int:
        """Tokens seen at the last known validation."""
        return max((tokens for tokens, _ in self.losses), default=0)

    @property
    def progress(self) -> str:
        """One phrase with arm, tokens seen and last validation loss."""
        loss = f", loss {self.losses[-1][1]:.3f}" if self.losses else ""
        return f"{self.arm} {self.tokens:,} of {self.spec.trained_tokens:,} tokens{loss}"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def key(params: Mapping[str, Value]) -> str:
    """A text that is equal for equal params."""
    return json.dumps(dict(params), sort_keys=True)
