"""Processes that are forks of one with everything imported, so that a kill costs a second, not ten.

The one they come from must not train itself: autograd does not survive a fork.
"""

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable

from pressft.study.results import TrialResult
from pressft.training import checkpoint

POINTS = ("train/loss", "train/learning_rate", "train/grad_norm", "eval/loss", "eval/perplexity")


def fork(work: Callable[[], object], at_most_s: int = 100) -> int:
    """Process id of a fork that does the work and leaves with 0."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        random.seed(os.getpid())  # or all forks would wait alike
        signal.alarm(at_most_s)  # a process that hangs is a failure, not a wait
        work()
        os._exit(0)
    except BaseException as error:
        traceback.print_exc()
        os._exit(getattr(error, "code", 0) or getattr(error, "exit_code", 1))


def ended(pid: int) -> int:
    """Exit code of the process, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_in_save(call: int) -> None:
    """End this process at the so-manieth sync within a checkpoint."""
    calls, sync = 0, os.fsync

    def deadly(descriptor: int) -> None:
        nonlocal calls
        calls += sys._getframe(1).f_code.co_filename == checkpoint.__file__
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = deadly  # type: ignore[assignment]


def comparable(result: TrialResult | None) -> object:
    """All of a result that kills must not change: scores, curve, samples, data."""
    assert result
    curve = [(at, {k: v for k, v in m.items() if k in POINTS}) for at, m, _ in result.curve]
    return (result.cell, result.validation, result.test, result.samples, result.data, curve)
