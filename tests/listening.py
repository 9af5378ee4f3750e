"""Who the tests let listen to work in progress, and the trial that several of them run."""

from pressft.spec import TrialSpec

TINY = TrialSpec(
    model="tiny-llama",
    corpus="invented",
    rank=2,
    learning_rate=5e-3,
    tokens=2048,
    batch=4,
    block=64,
    window=128,
    validation_tokens=1000,
)


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.planned = self.done = 0
        self.lines: list[str] = []
        self.seen: list[str] = []  # what was being done

    def setup(self, what: str, done: float, of: float) -> None:
        """Not of interest."""

    def plan(self, title: str, units: int) -> None:  # noqa: ARG002
        self.planned = units

    def advance(self, what: str, units: int) -> None:
        self.seen.append(what)
        self.done += units

    def say(self, line: str) -> None:
        self.lines.append(line)
