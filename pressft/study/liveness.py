"""Who works on a study: names of processes, and whether one is gone."""

import os
import socket
import time

import psutil

LEASE_S = 600.0  # a trial of another machine that nobody kept alive for so long is dead


def worker_name(pid: int = 0) -> str:
    """A process of this machine, this one unless named, told apart on all machines."""
    return f"{socket.gethostname()}:{pid or os.getpid()}"


def is_gone(worker: str, alive: float, heard_since: float = 0.0) -> bool:
    """Whether a worker is gone that was last known alive then: of this machine by its process, of
    another by its silence, as far as it could be heard since then (seconds since 1970)."""
    machine, _, pid = worker.rpartition(":")
    if machine == socket.gethostname():
        try:
            process = psutil.Process(int(pid))
            if process.status() == psutil.STATUS_ZOMBIE:  # killed, and nobody has asked for it yet
                return True
            return process.create_time() > alive  # another one has its number now
        except psutil.NoSuchProcess:
            return True
    return time.time() - max(alive, heard_since) > LEASE_S
