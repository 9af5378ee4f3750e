"""Stopping on SIGINT and SIGTERM without losing what was done.

A first signal stops the work at once or, within `deferred`, where the code next looks at `signum`;
a second one ends the process at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked us to stop; `code` is the exit code for it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


class Stopping:
    """Whether a signal has asked us to stop; handlers are set for the length of a `with` block."""

    def __init__(self) -> None:
        self.signum = 0
        self._deferring = False

    def __enter__(self) -> "Stopping":
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note signals within the block, which must look at `signum` and end by itself.

        Raises:
            Stopped: at the end of the block, if a signal came.
        """
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.signum:
            raise Stopped(self.signum)

    def _receive(self, signum: int, _: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # a second one ends the process
        self.signum = signum
        if not self._deferring:
            raise Stopped(signum)
