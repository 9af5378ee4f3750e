"""Whether the process behind a trial is gone."""

import os
import signal
import time

from pressft.study.liveness import is_gone, worker_name


def test_a_killed_process_is_gone_before_its_parent_has_asked_for_it() -> None:
    """Under a container's first process that never asks, it stays in the table for good."""
    if not (pid := os.fork()):
        signal.pause()
    now = time.time()
    assert not is_gone(worker_name(pid), now)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    assert is_gone(worker_name(pid), now)
    os.waitpid(pid, 0)
    assert is_gone(worker_name(pid), now)
