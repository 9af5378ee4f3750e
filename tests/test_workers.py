"""Several processes on one study: exactly as many trials as asked for, each cell once, and a worker
that dies loses nothing."""

import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from listening import Listener
from mlflow import MlflowClient
from servers import Database

from pressft import sweep
from pressft.errors import PressftError
from pressft.spec import TrialSpec
from pressft.study import reader
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.study import Choices, Range, Study
from pressft.workers import WorkerPool

IDENTITY = {"weights": "w", "corpus": "c"}
SPEC = TrialSpec(model="tiny-llama", corpus="invented")
PER_ARM = Study(
    "crowd",
    SPEC,
    {
        "remove": Choices("none", "first", "last"),
        "rank": Choices(2, 4, 8),
        "learning_rate": Range(1e-4, 1e-2, log=True),
    },
    design="per-arm",
    trials=8,
    seeds=(0, 1, 2),
)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """A PostgreSQL of the tests' own, on a socket."""
    server = Database()
    yield server.url
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'optuna.db'}"
    return str(request.getfixturevalue("postgresql"))


def test_four_workers_asked_for_thirty_trials_run_thirty(storage: str) -> None:
    start_id = Ledger(PER_ARM, storage, IDENTITY).start_id
    pids = []
    for number in range(4):
        if not (pid := os.fork()):
            signal.alarm(100)
            source = random.Random(number)
            ledger = Ledger(PER_ARM, storage, IDENTITY, start_id)
            while True:
                if trial := ledger.take():
                    time.sleep(source.uniform(0, 0.02))
                    ledger.complete(trial, source.random())
                elif ledger.others_running():
                    time.sleep(0.05)
                else:
                    os._exit(0)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4
    rows = reader.read("crowd", storage).trials
    assert [row.state for row in rows] == ["complete"] * 30 == ["complete"] * PER_ARM.n_trials
    assert len({row.attrs["worker"] for row in rows}) > 1
    cells = [tuple(sorted(row.params.items())) for row in rows]
    assert len(set(cells)) == 30
    for arm in PER_ARM.arms():
        mine = [row for row in rows if row.arm == arm]
        best = min((row for row in mine if row.params["seed"] == 0), key=lambda row: row.value)
        replicas = [dict(row.params) for row in mine if row.params["seed"] != 0]
        assert replicas == [dict(best.params) | {"seed": seed} for seed in (1, 2)]


HALVED = Study(
    "halved",
    SPEC,
    {"remove": Choices("none", "first", "last"), "rank": Choices(1, 2, 4, 8, 16)},
    pruning="halving",
)


class Tickets:
    """Counts the trials that several processes take."""

    def __init__(self, until: int) -> None:
        self.left = multiprocessing.get_context("fork").Value("i", until)

    def draw(self) -> bool:
        with self.left.get_lock():
            self.left.value -= 1
            return self.left.value == 0


def halve(storage: str, start_id: str, pause_s: float, deadly: Tickets | None = None) -> None:
    """Work on HALVED, whose loss tells only of the rank, until there is nothing left.

    Whoever draws the `deadly` one of the trials that all have taken dies of it."""
    ledger = Ledger(HALVED, storage, IDENTITY, start_id)
    while True:
        if trial := ledger.take():
            if deadly and deadly.draw():
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(random.uniform(0, pause_s))
            ledger.record_loss(
                trial, ledger.next_rung(trial) or SPEC.trained_tokens, loss := 3 / trial.spec.rank
            )
            if ledger.next_rung(trial):
                ledger.pause(trial)
            else:
                ledger.complete(trial, loss)
        elif ledger.others_running():
            time.sleep(0.05)
            ledger.recover()
        else:
            return


def test_law_7_workers_halve_as_one_does_also_where_one_dies(storage: str, tmp_path: Path) -> None:
    alone = f"sqlite:///{tmp_path / 'alone.db'}"
    halve(alone, "", 0)
    start_id = Ledger(HALVED, storage, IDENTITY).start_id
    deadly, pids = Tickets(8), []
    for _ in range(4):
        if not (pid := os.fork()):
            signal.alarm(100)
            halve(storage, start_id, 0.02, deadly)
            os._exit(0)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(codes) == [-signal.SIGKILL, 0, 0, 0]
    found, expected = (
        {
            row.key: (row.state, row.value)
            for row in reader.read("halved", url).trials
            if row.is_done
        }
        for url in (storage, alone)
    )
    assert found == expected
    assert [state for state, _ in found.values()].count("complete") == 3
    assert len(found) == HALVED.n_trials


def test_a_cell_that_kills_its_workers_is_left_after_three(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = Study("deadly", SPEC, {"remove": Choices("none", "first")})
    watcher = Ledger(study, storage, IDENTITY)
    numbers = []
    for _ in range(10):
        if not (pid := os.fork()):
            ledger = Ledger(study, storage, IDENTITY, watcher.start_id)
            while trial := ledger.take():
                if trial.spec.remove == "first":
                    os.kill(os.getpid(), signal.SIGKILL)
                ledger.complete(trial, 1.0)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:
            break
        numbers += [row.number for row in watcher.recover()]
    assert len(numbers) == 3
    assert Ledger(study, storage, IDENTITY).take() is not None  # another day it is tried again


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Four short trials, also as a file for the workers."""
    monkeypatch.chdir(tmp_path)
    settings = "tokens=20_480, batch=4, block=64, window=128, validation_tokens=300, rank=2"
    text = (
        "from pressft.study.study import Choices, Study\nfrom pressft.spec import TrialSpec\n"
        f"BASE = TrialSpec(model='tiny-llama', corpus='invented', {settings})\n"
        "STUDY = Study('crew', BASE, {'remove': Choices('none', 'first'), "
        "'learning_rate': Choices(1e-3, 5e-3)})\n"
    )
    (tmp_path / "crew.py").write_text(text)
    space: dict[str, object] = {}
    exec(text, space)
    found = space["STUDY"]
    assert isinstance(found, Study)
    return found


@pytest.mark.whole
def test_a_killed_worker_is_replaced_and_its_trial_goes_on(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locations, listener = Locations(tmp_path / "mlruns"), Listener()
    monkeypatch.setattr("pressft.workers.REPORT_S", 0.2)
    command = [sys.executable, "-m", "pressft", "work", "crew.py"]
    killed: list[int] = []

    def kill() -> None:
        """End the first worker whose trial has been validated once."""
        while not killed:
            time.sleep(0.1)
            if not list(locations.root.glob("cells/*")):
                continue  # the study is not there yet
            for trial in reader.read("crew", locations.storage).running:
                if trial.tokens:
                    pid = int(trial.worker.split(":")[1])
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    outcome = sweep.run_sweep(study, listener, locations, pool=WorkerPool(command, {}, 2, listener))
    killer.join(1)
    assert killed
    assert (outcome.done, outcome.trained, outcome.asked) == (4, 4, 4)
    assert any("died (signal 9); trial" in line for line in listener.lines)
    far = re.compile(r"\b(none|first) [\d,]+ of 20,480 tokens, loss \d\.\d{3}")
    assert any(far.search(what) for what in listener.seen)
    assert 0 < listener.done <= listener.planned
    client = MlflowClient(f"sqlite:///{locations.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("crew")
    runs = client.search_runs([experiment.experiment_id], "tags.arm != 'summary'")
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    for run in runs:
        points = client.get_metric_history(run.info.run_id, "train/loss")
        assert len({point.step for point in points}) == len(points)


def test_workers_that_always_die_are_given_up_with_their_last_words(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pressft.workers.MAX_RESTARTS", 1)
    command = [sys.executable, "-c", "import sys; sys.exit('no luck')"]
    listener = Listener()
    with pytest.raises(PressftError, match="every worker died; the last line: no luck"):
        sweep.run_sweep(
            study,
            listener,
            Locations(tmp_path / "mlruns"),
            pool=WorkerPool(command, {}, 2, listener),
        )
