"""Optuna's storage on a real PostgreSQL that restarts, and what errors tell."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Database

from pressft.errors import MissingError
from pressft.spec import TrialSpec
from pressft.study import database as databases
from pressft.study import liveness, reader, storage
from pressft.study.ledger import Ledger
from pressft.study.study import Choices, Study

STUDY = Study(
    "s", TrialSpec(model="tiny-llama", corpus="invented"), {"remove": Choices("none", "first")}
)
IDENTITY = {"weights": "w", "corpus": "c"}


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    found = Database()
    yield found
    found.close()


def test_a_live_trial_outlives_a_restart_of_the_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pressft.study.ledger.LEASE_S", 1.2)  # dead after 1.2 s of silence
    ledger = Ledger(STUDY, database.url, IDENTITY)
    trial = ledger.take()
    assert trial is not None
    restart = threading.Thread(target=database.restart, args=(3.0, "immediate"))
    restart.start()
    time.sleep(0.5)
    ledger.note(trial, cell="c")  # in the middle of the outage: it waits
    restart.join()
    assert ledger.complete(trial, 1.0)
    (row,) = reader.read("s", database.url).trials
    assert (row.state, row.value, row.attrs["cell"]) == ("complete", 1.0, "c")


def test_a_trial_of_another_machine_is_given_time_after_a_restart(database: Database) -> None:
    silent = time.time() - 2 * liveness.LEASE_S
    assert liveness.is_gone("elsewhere:1", silent)
    up = storage.backend(database.url).up_since()
    assert up > time.time() - liveness.LEASE_S
    assert not liveness.is_gone("elsewhere:1", silent, heard_since=up)


def test_what_only_one_may_do_is_given_up_by_a_process_that_dies(database: Database) -> None:
    read, write = os.pipe()
    if not (pid := os.fork()):
        with databases.lock(database.url, "x"):
            os.write(write, b"held")
            time.sleep(60)
    os.read(read, 4)
    os.kill(pid, signal.SIGKILL)
    with databases.lock(database.url, "x") as lock:
        assert lock.holds()
        database.restart(0.1, "fast")
        assert not lock.holds()
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:s3cret@127.0.0.1:9/none", "postgresql+psycopg://me:s3cret@nowhere.invalid/x"],
)
def test_a_database_that_is_not_there_is_one_line_without_the_password(url: str) -> None:
    began = time.monotonic()
    with pytest.raises(MissingError, match="study storage cannot be used") as error:
        Ledger(STUDY, url, IDENTITY)
    assert "s3cret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 60  # a start does not wait for what was never there


def test_a_storage_of_an_older_optuna_is_named_and_brought_up(tmp_path: Path) -> None:
    from alembic import command

    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    Ledger(STUDY, url, IDENTITY)
    assert storage.outdated(url) is None
    manager = storage.backend(url)._version_manager
    command.stamp(manager._create_alembic_config(), "v3.0.0.d")  # since then an index came
    with pytest.raises(MissingError, match="storage upgrade"):
        storage.backend(url)
    mend = storage.outdated(url)
    assert mend is not None
    mend()
    assert storage.outdated(url) is None
    assert reader.read("s", url).trials == []
