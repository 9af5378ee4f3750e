"""Law 9: MLflow as the doctor rebuilds it is, field by field, MLflow as a sweep wrote it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from listening import TINY, Listener
from mlflow import MlflowClient

from pressft import doctor, sweep
from pressft.study.locations import Locations
from pressft.study.study import Choices, Study
from pressft.tracking.sync import RECOVERY

BASE = replace(TINY, tokens=2560)
# whole, cut, pruned by the median, diverged, and answered from an earlier cell
MIXED = Study(
    "mixed",
    BASE,
    {
        "remove": Choices("none", "last"),
        "learning_rate": Choices(5e-3, 5.1e-3, 5.2e-3, 1e-7, 1e30),
    },
    pruning="median",
)
KNOWN = Study("known", BASE, {"remove": Choices("none")})


@pytest.fixture(scope="module")
def locations(tmp_path_factory: pytest.TempPathFactory) -> Locations:
    found = Locations(tmp_path_factory.mktemp("rebuilt") / "mlruns")
    sweep.run_sweep(MIXED, Listener(), found)
    sweep.run_sweep(KNOWN, Listener(), found)
    return found


def view(root: Path) -> dict[str, dict[str, object]]:
    """All that MLflow shows, run by run, but for the ids of runs."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    found = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            run_id, tags = run.info.run_id, dict(run.data.tags)
            is_summary = tags["arm"] == "summary"
            points = {
                (key, p.step, repr(p.value), p.timestamp if key != RECOVERY else 0)
                for key in run.data.metrics
                for p in client.get_metric_history(run_id, key)
            }
            artifacts = {
                path.relative_to(folder): path.read_bytes() if not is_summary else b""
                for folder in [Path(run.info.artifact_uri.removeprefix("file://"))]
                for path in folder.rglob("*")
                if path.is_file()
            }
            found[f"{experiment.name} {tags['record']}"] = {
                "name": run.info.run_name,
                "status": run.info.status,
                "times": None if is_summary else (run.info.start_time, run.info.end_time),
                "params": dict(run.data.params),
                "tags": {k: v for k, v in tags.items() if k != "mlflow.note.content"},
                "note": tags.get("mlflow.note.content") if not is_summary else "",
                "points": points,
                "datasets": {
                    (i.dataset.name, i.dataset.digest, i.dataset.source, i.tags[0].value)
                    for i in run.inputs.dataset_inputs
                },
                "artifacts": artifacts,
            }
    return found


def test_law_9_a_rebuilt_view_is_field_by_field_that_of_the_sweep(locations: Locations) -> None:
    before = view(locations.root)
    states = sorted(str(run["status"]) for name, run in before.items() if "summary" not in name)
    assert states == ["FAILED"] * 2 + ["FINISHED"] * 7 + ["KILLED"] * 2
    assert list(doctor.examine(locations)) == []
    bare = Locations(locations.root.with_name("bare"))  # MLflow keeps connections to a file
    shutil.copytree(locations.root, bare.root, ignore=shutil.ignore_patterns("*mlflow*", "art*"))
    doctor.rebuild(bare, lambda _: None)
    after = view(bare.root)
    assert before.keys() == after.keys()
    for record, run in before.items():
        for field, value in run.items():
            assert after[record][field] == value, (record, field)
    assert list(doctor.examine(bare)) == []
