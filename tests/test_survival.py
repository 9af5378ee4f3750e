"""Law 10: a study that is killed again and again ends as one left alone.

The processes are forks of one that has everything imported, so that a kill costs a second, not ten;
that one must not train itself, for autograd does not survive a fork.
"""

import dataclasses
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from listening import TINY, Listener
from mlflow import MlflowClient

from pressft import checkpoints, status, sweep, training
from pressft.design import Choices, Study
from pressft.results import Store
from pressft.status import Stores

BASE = dataclasses.replace(TINY, tokens=6144, validation_tokens=300)
STUDY = Study("survivor", BASE, {"remove": Choices("last")})
POINTS = ("train/loss", "train/learning_rate", "train/grad_norm", "eval/loss", "eval/perplexity")


@pytest.fixture(scope="module", autouse=True)
def _often() -> Iterator[None]:
    """Checkpoints at every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_S", 0.0)
        yield


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    stores = Stores(tmp_path_factory.mktemp("alone") / "mlruns")
    run(stores)
    return stores


def fork(work: Callable[[], object]) -> int:
    """Process id of a fork that does the work and leaves with 0."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.alarm(100)  # a process that hangs is a failure, not a wait
        work()
        os._exit(0)
    except BaseException as error:
        traceback.print_exc()
        os._exit(getattr(error, "code", 1) or 1)


def run(stores: Stores) -> None:
    """Run the study, or go on with it, to its end."""

    def work() -> None:
        listener = Listener()
        if sweep.run(STUDY, listener, stores).done < 1:
            raise AssertionError(listener.lines)

    assert ended(fork(work)) == 0


def ended(pid: int) -> int:
    """Exit code of the process, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def numbers(stores: Stores, name: str = "survivor") -> dict[str, object]:
    """Everything that must be equal: scores, curves, samples of every arm."""
    done = status.by_arm(status.find(name, stores).rows, Store(stores.root))
    found: dict[str, object] = {}
    for arm, (trial,) in done.items():
        result = trial.result
        curve = [
            (at, {key: metrics[key] for key in POINTS if key in metrics})
            for at, metrics in result.curve
        ]
        kept = (result.cell, result.validation, result.test, result.samples, result.data)
        found[arm] = (*kept, curve)
    return found


def same_as_alone(stores: Stores, alone: Stores) -> None:
    assert numbers(stores) == numbers(alone)
    client = MlflowClient(f"sqlite:///{stores.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("survivor")
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.data.tags["arm"] != "summary"]
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert len(trials) == 1  # one run a cell, however often it was killed
    for run in trials:
        assert "fault" not in run.data.tags
        for key in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
            assert len(steps) == len(set(steps)), key
        expected = [at for at, metrics in curve_of(stores, run) if "train/loss" in metrics]
        points = client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in points) == expected
    assert not list(stores.root.glob("cells/*/checkpoints"))


def curve_of(stores: Stores, run: object) -> list[tuple[int, dict[str, float]]]:
    result = Store(stores.root).trial(run.data.tags["cell"])
    assert result
    return list(result.curve)


def test_law_10_killed_at_random_moments(alone: Stores, tmp_path: Path) -> None:
    source, stores = random.Random(0), Stores(tmp_path / "mlruns")
    for _ in range(10):
        pid = fork(lambda: sweep.run(STUDY, Listener(), stores))
        time.sleep(source.uniform(0.2, 2.5))
        os.kill(pid, signal.SIGKILL)
        ended(pid)
    run(stores)
    same_as_alone(stores, alone)


@pytest.mark.parametrize("call", [1, 2, 5, 9, 14])
def test_law_10_killed_inside_a_save(alone: Stores, tmp_path: Path, call: int) -> None:
    stores = Stores(tmp_path / "mlruns")

    def work() -> None:
        calls = 0
        sync = os.fsync

        def deadly(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(descriptor)

        checkpoints.os.fsync = deadly  # type: ignore[attr-defined]
        sweep.run(STUDY, Listener(), stores)

    assert ended(fork(work)) == -signal.SIGKILL
    run(stores)
    same_as_alone(stores, alone)


def test_law_10_stopped_and_gone_on_from_a_damaged_checkpoint(
    alone: Stores, tmp_path: Path
) -> None:
    stores = Stores(tmp_path / "mlruns")
    pid = fork(lambda: sweep.run(STUDY, Listener(), stores))
    while len(found := sorted(stores.root.glob("cells/*/checkpoints/step-*"))) < 2:
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == 143
    found = sorted(stores.root.glob("cells/*/checkpoints/step-*"))
    assert len(found) == 2
    os.truncate(found[1] / "optimizer.pt", 10)

    def work() -> None:
        listener = Listener()
        outcome = sweep.run(STUDY, listener, stores)
        assert f"checkpoint {found[1].name} is damaged and passed over" in listener.lines
        assert outcome.done == 1

    assert ended(fork(work)) == 0
    same_as_alone(stores, alone)
