"""A database that several processes use: waited for while it is away, and a lock of them all."""

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

PATIENCE_S = 900.0  # with a database that was there and is away


def is_away(error: BaseException) -> bool:
    """Whether a database that was there does not answer now, or is busy with others."""
    at: BaseException | None = error
    while at is not None and not isinstance(
        at, OperationalError | InterfaceError | PendingRollbackError
    ):
        at = at.__cause__
    if at is None:
        return False
    words = str(at).lower()
    return "sqlite" not in words or "locked" in words


def patiently(what: Callable[[], Any], patience_s: Callable[[], float]) -> Any:  # noqa: ANN401
    """Call until the database answers, with growing pauses, for so many seconds at most."""
    began = time.monotonic()
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_away),
        stop=lambda _: time.monotonic() - began > patience_s(),
        wait=tenacity.wait_random_exponential(0.1, 5.0),
        reraise=True,
    )(what)


def address(storage: str) -> sqlalchemy.URL:
    """A storage's address; `postgresql://` means psycopg 3, which is what is installed with us."""
    url = sqlalchemy.make_url(storage)
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


class Lock(AbstractContextManager["Lock"]):
    """What only one process at a time holds."""

    def holds(self) -> bool:
        """Whether we still hold it: a database that was restarted has given it away."""
        return True


class _FileLock(Lock):
    """A file beside SQLite."""

    def __init__(self, path: Path) -> None:
        if not path.parent.is_dir():  # the lock would make it, at a mistyped place
            raise FileNotFoundError(f"no folder {path.parent}")
        self._lock = filelock.FileLock(path)

    def __enter__(self) -> Lock:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _AdvisoryLock(Lock):
    """A lock of PostgreSQL, which gives it up by itself when its holder is gone."""

    def __init__(self, url: sqlalchemy.URL, name: str, patience_s: float) -> None:
        self._patience_s = patience_s
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        self._key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])

    def __enter__(self) -> Lock:
        patiently(self._acquire, lambda: self._patience_s)
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
    """Of a database that only this process has."""


def lock(storage: str, name: str, patience_s: float = PATIENCE_S) -> Lock:
    """A lock of all processes that use a storage: a file beside SQLite, an advisory lock of
    PostgreSQL, for which a database that does not answer is waited for so many seconds."""
    url = address(storage)
    if url.get_backend_name() == "sqlite" and url.database:
        return _FileLock(Path(url.database).with_name(f".{name}.plan.lock"))
    if url.get_backend_name() == "postgresql":
        return _AdvisoryLock(url, name, patience_s)
    return _NoLock()
