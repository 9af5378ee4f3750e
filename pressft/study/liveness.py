"""The worker processes of a study: their names, and whether one is dead."""

import os
import socket
import time

import psutil

LEASE_S = 600.0  # after so long without a heartbeat a trial of another machine counts as dead


def worker_name(pid: int = 0) -> str:
    """A name that is unique over all machines, of this process or of `pid` on this machine."""
    return f"{socket.gethostname()}:{pid or os.getpid()}"


def is_gone(worker: str, alive: float, heard_since: float = 0.0) -> bool:
    """Whether a worker is dead: one of this machine if its process has ended, one of another
    machine if it sent no heartbeat for `LEASE_S` while the storage was reachable. `alive` is its
    last heartbeat, `heard_since` when the storage became reachable, in seconds since 1970."""
    machine, _, pid = worker.rpartition(":")
    if machine == socket.gethostname():
        try:
            process = psutil.Process(int(pid))
            if process.status() == psutil.STATUS_ZOMBIE:  # killed, and not yet waited for
                return True
            return process.create_time() > alive  # another process has its number now
        except psutil.NoSuchProcess:
            return True
    return time.time() - max(alive, heard_since) > LEASE_S
