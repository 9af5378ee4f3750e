"""Who works on a study: names of processes, whether one is gone, what only one may do at a time."""

import hashlib
import os
import socket
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import filelock
import psutil
import sqlalchemy

LEASE_S = 600.0  # a trial of another machine that nobody kept alive for so long is dead


def worker_name(pid: int = 0) -> str:
    """A process of this machine, this one unless named, told apart on all machines."""
    return f"{socket.gethostname()}:{pid or os.getpid()}"


def is_gone(worker: str, alive: float) -> bool:
    """Whether a worker is gone that was last known alive then: of this machine by its process, of
    another by its silence."""
    machine, _, pid = worker.rpartition(":")
    if machine == socket.gethostname():
        try:
            return psutil.Process(int(pid)).create_time() > alive  # another one has its number now
        except psutil.NoSuchProcess:
            return True
    return time.time() - alive > LEASE_S


def planning_lock(url: sqlalchemy.URL, study: str) -> AbstractContextManager[object]:
    """What only one process at a time holds: a file beside SQLite, an advisory lock of
    PostgreSQL."""
    if url.get_backend_name() == "sqlite" and url.database:
        return filelock.FileLock(Path(url.database).with_name(f".{study}.plan.lock"))
    if url.get_backend_name() == "postgresql":
        return _AdvisoryLock(url, study)
    return nullcontext()


class _AdvisoryLock:
    """A lock that the database gives up by itself when its holder is gone."""

    def __init__(self, url: sqlalchemy.URL, name: str) -> None:
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        self._key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])

    def __enter__(self) -> None:
        self._connection = self._engine.connect()
        self._connection.execute(
            sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": self._key}
        )

    def __exit__(self, *_: object) -> None:
        self._connection.close()
