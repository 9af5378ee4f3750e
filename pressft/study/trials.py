"""A trial as its study knows it, whatever its state."""

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pressft.spec import TrialSpec, Value

RESTING = "waiting"  # Optuna's word for a trial that is to be taken up again


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial as the storage has it: what it changes of the study's `base` spec, how far it is.

    `value` is the validation loss in nats per token; `attrs` are the facts noted of it, as JSON.
    """

    number: int
    state: str  # waiting, running, complete, pruned, fail
    params: Mapping[str, Value]
    value: float | None
    attrs: Mapping[str, Any]
    base: TrialSpec = field(default_factory=TrialSpec, repr=False)
    id: int = -1  # in the storage
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
        """Name of its result, "" before it has one."""
        return str(self.attrs.get("cell", ""))

    @property
    def worker(self) -> str:
        """Name of the process that has or had it."""
        return str(self.attrs.get("worker", ""))

    @property
    def is_over(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.state in {"complete", "pruned", "fail"}

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
        """Whether it is running or rests."""
        return self.state == "running" or self.rests

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Tokens seen and validation loss there, as far as they are known."""
        return [(int(tokens), float(loss)) for tokens, loss in self.attrs.get("losses", ())]

    @property
    def tokens(self) -> int:
        """Tokens seen at its last known validation."""
        return max((tokens for tokens, _ in self.losses), default=0)

    @property
    def progress(self) -> str:
        """Arm, tokens and last validation loss in a few words."""
        loss = f", loss {self.losses[-1][1]:.3f}" if self.losses else ""
        return f"{self.arm} {self.tokens:,} of {self.spec.trained_tokens:,} tokens{loss}"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def key(params: Mapping[str, Value]) -> str:
    """The same text for the same params."""
    return json.dumps(dict(params), sort_keys=True)
