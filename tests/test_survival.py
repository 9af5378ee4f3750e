"""Law 10: a trial that is stopped and gone on with ends as one left alone. Kills: `test_chaos`."""

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import comparable, ended, fork
from listening import TINY, Listener
from mlflow import MlflowClient

from pressft import sweep
from pressft.report import status
from pressft.study.locations import Locations
from pressft.study.results import Store, TrialResult
from pressft.study.study import Choices, Study
from pressft.training import loop

BASE = dataclasses.replace(TINY, tokens=6144, validation_tokens=300)
STUDY = Study("survivor", BASE, {"remove": Choices("last")})


@pytest.fixture(scope="module", autouse=True)
def _often() -> Iterator[None]:
    """Checkpoints at every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_S", 0.0)
        yield


def result(locations: Locations) -> TrialResult:
    """Of the study's one finished trial."""
    done = [r for r in status.find("survivor", locations).trials if r.state == "complete"]
    found = Store(locations.root).trial(str(done[0].attrs["cell"]))
    assert found
    assert len(done) == 1
    return found


def test_law_10_stopped_and_gone_on_from_a_damaged_checkpoint(tmp_path: Path) -> None:
    alone, locations = Locations(tmp_path / "alone" / "mlruns"), Locations(tmp_path / "mlruns")
    assert ended(fork(lambda: sweep.run_sweep(STUDY, Listener(), alone))) == 0
    pid = fork(lambda: sweep.run_sweep(STUDY, Listener(), locations))
    while len(list(locations.root.glob("cells/*/checkpoints/step-*"))) < 2:
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == 143
    found = sorted(locations.root.glob("cells/*/checkpoints/step-*"))
    assert len(found) == 2
    os.truncate(found[1] / "tensors.pt", 10)

    def work() -> None:
        listener = Listener()
        outcome = sweep.run_sweep(STUDY, listener, locations)
        assert f"checkpoint {found[1].name} is damaged and passed over" in listener.lines
        assert outcome.done == 1

    assert ended(fork(work)) == 0
    assert comparable(result(locations)) == comparable(result(alone))
    assert not list(locations.root.glob("cells/*/checkpoints"))
    client = MlflowClient(f"sqlite:///{locations.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("survivor")
    (run,) = client.search_runs([experiment.experiment_id], "tags.arm != 'summary'")
    assert run.info.status == "FINISHED"
    assert "fault" not in run.data.tags
    for key in run.data.metrics:
        points = client.get_metric_history(run.info.run_id, key)
        assert len({point.step for point in points}) == len(points), key
    expected = [p.tokens for p in result(locations).curve if "train/loss" in p.metrics]
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in points) == expected


@pytest.mark.parametrize(
    ("phase", "saved"),
    [("training", 1), ("validating", BASE.validated_at[0]), ("testing", BASE.steps - 1)],
)
def test_a_signal_waits_for_the_end_of_a_step_and_ends_scoring_at_once(
    tmp_path: Path, phase: str, saved: int
) -> None:
    locations, log = Locations(tmp_path / "mlruns"), tmp_path / "seen"

    class Signalling(Listener):
        def advance(self, what: str, units: int) -> None:  # noqa: ARG002
            with log.open("a") as file:
                file.write(f"{what}\n")
            if log.read_text().count(f": {phase}") == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    assert ended(fork(lambda: sweep.run_sweep(STUDY, Signalling(), locations))) == 143
    newest = max(path.name for path in locations.root.glob("cells/*/checkpoints/step-*"))
    assert newest == f"step-{saved:08d}"
    assert log.read_text().count(": testing") == (phase == "testing")
    (done,) = locations.root.glob("cells/*/result.json")
    assert done.parent.name.startswith("untrained-")
