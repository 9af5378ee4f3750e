"""Processes that work on bytes from the web, within limits of time and memory.

A parser that takes minutes or gigabytes, or crashes, takes only its own process: the crawl goes on.
Left to others: the work, always a plain function of a module.
"""

import asyncio
import multiprocessing
import resource
import signal
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pebble import ProcessExpired, ProcessPool

from pressft.errors import DataError

MEMORY_BYTES = 2**30  # of address space, 0.2 of it taken by the modules
TIME_S = 20

P = ParamSpec("P")
T = TypeVar("T")


class OverLimit(DataError):
    """The work took too long or too much memory, or crashed its process."""


class Sandbox:
    """A pool of at most `n` processes of `memory_bytes` each, started when first needed."""

    def __init__(self, n: int = 1, time_s: int = TIME_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self._time_s = time_s
        # Not forked: a fork of a running reactor would hold its sockets and the corpus' lock.
        self._pool = ProcessPool(
            max_workers=n,
            initializer=_limit,
            initargs=[memory_bytes],
            context=multiprocessing.get_context("spawn"),
        )

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns or raises.

        Raises:
            OverLimit: it did not end within the limits.
        """
        task = self._pool.schedule(
            _timed, args=[work, self._time_s, args, kwargs], timeout=self._time_s
        )
        try:
            return await asyncio.wrap_future(task)
        except (TimeoutError, MemoryError, ProcessExpired) as error:
            what = "time" if isinstance(error, TimeoutError) else "memory"
            raise OverLimit(f"too much {what} to read") from None

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the crawl, which ends them


def _timed(
    work: Callable[..., T], time_s: int, args: tuple[object, ...], kwargs: dict[str, object]
) -> T:
    signal.alarm(time_s + 2)  # ends the process also when a killed crawl cannot
    try:
        return work(*args, **kwargs)
    finally:
        signal.alarm(0)
