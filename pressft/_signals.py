"""Stopping on SIGINT and SIGTERM without losing what was done.

A first signal stops at once, or, within `patience`, at the next place that asks; a second one
leaves the process at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked us to stop; `code` is the exit code that says so."""

    def __init__(self, signum: int) -> None:
        """Keep the code of the signal."""
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


class Stopping:
    """Whether a signal has asked us to stop; handlers are set for the length of a `with` block."""

    def __init__(self) -> None:
        """Nothing has been asked yet."""
        self.signum = 0
        self._patient = False

    def __enter__(self) -> "Stopping":
        """Take over both signals."""
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Signals are only noted within; what asks for `signum` now and then stops by itself.

        Raises:
            Stopped: at the end, where a signal came.
        """
        self._patient = True
        try:
            yield
        finally:
            self._patient = False
        if self.signum:
            raise Stopped(self.signum)

    def _receive(self, signum: int, _: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # a second one leaves at once
        self.signum = signum
        if not self._patient:
            raise Stopped(signum)
