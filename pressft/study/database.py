"""A database shared by several processes: retries while it is unreachable, and a common lock."""

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import filelock
import sqlalchemy
import tenacity
from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError

RETRY_FOR_S = 900.0  # while a database that has answered before is unreachable


def is_unreachable(error: BaseException) -> bool:
    """Whether the error says that the database is unreachable or locked by other processes."""
    at: BaseException | None = error
    while at is not None and not isinstance(
        at, OperationalError | InterfaceError | PendingRollbackError
    ):
        at = at.__cause__
    if at is None:
        return False
    words = str(at).lower()
    return "sqlite" not in words or "locked" in words


def with_retries(call: Callable[[], Any], retry_for_s: Callable[[], float]) -> Any:  # noqa: ANN401
    """Call until the database answers, with growing pauses, for at most `retry_for_s` seconds."""
    began = time.monotonic()
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_unreachable),
        stop=lambda _: time.monotonic() - began > retry_for_s(),
        wait=tenacity.wait_random_exponential(0.1, 5.0),
        reraise=True,
    )(call)


def address(storage: str) -> sqlalchemy.URL:
    """The URL of a storage; `postgresql://` selects psycopg 3, the driver that we install."""
    url = sqlalchemy.make_url(storage)
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


class Lock(AbstractContextManager["Lock"]):
    """A lock that only one process at a time holds."""

    def holds(self) -> bool:
        """Whether we still hold it: a database that restarts releases its locks."""
        return True


class _FileLock(Lock):
    """A lock file beside an SQLite database."""

    def __init__(self, path: Path) -> None:
        if not path.parent.is_dir():  # filelock would create it, even for a mistyped path
            raise FileNotFoundError(f"no folder {path.parent}: create it, or correct the path")
        self._lock = filelock.FileLock(path)

    def __enter__(self) -> Lock:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _AdvisoryLock(Lock):
    """An advisory lock of PostgreSQL, which releases it when the connection of its holder ends."""

    def __init__(self, url: sqlalchemy.URL, name: str, retry_for_s: float) -> None:
        self._retry_for_s = retry_for_s
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        self._key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])

    def __enter__(self) -> Lock:
        with_retries(self._acquire, lambda: self._retry_for_s)
        return self

    def _acquire(self) -> None:
        self._connection = self._engine.connect()
        lock = sqlalchemy.text("SELECT pg_advisory_lock(:key)")
        self._connection.execute(lock, {"key": self._key})

    def holds(self) -> bool:
        try:
            self._connection.execute(sqlalchemy.text("SELECT 1"))
        except sqlalchemy.exc.SQLAlchemyError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        with suppress(sqlalchemy.exc.SQLAlchemyError):
            self._connection.close()


class _NoLock(nullcontext["Lock"], Lock):
    """No lock, for a database that only this process uses."""


def lock(storage: str, name: str, retry_for_s: float = RETRY_FOR_S) -> Lock:
    """A lock shared by all processes that use a storage: a file beside SQLite, an advisory lock in
    PostgreSQL, which is retried for `retry_for_s` seconds while the database is unreachable."""
    url = address(storage)
    if url.get_backend_name() == "sqlite" and url.database:
        return _FileLock(Path(url.database).with_name(f".{name}.plan.lock"))
    if url.get_backend_name() == "postgresql":
        return _AdvisoryLock(url, name, retry_for_s)
    return _NoLock()
