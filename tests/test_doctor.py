"""The doctor finds every kind of disagreement, repairs what it can, and rebuilds MLflow."""

import shutil
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from studies import fill, grid

from pressft import doctor
from pressft.errors import MissingError
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.results import Store
from pressft.tracking.client import Tracker
from pressft.tracking.runs import Run


@pytest.fixture
def locations(tmp_path: Path) -> Locations:
    found = Locations(tmp_path / "mlruns")
    found.root.mkdir()
    fill(grid(8), found, leave=1)
    doctor.rebuild(found, lambda _: None)
    assert list(doctor.examine(found)) == []
    return found


@pytest.fixture
def client(locations: Locations) -> MlflowClient:
    return MlflowClient(f"sqlite:///{locations.root / 'mlflow.db'}")


def runs(client: MlflowClient) -> dict[int, object]:
    experiment = client.get_experiment_by_name("made")
    found = client.search_runs([experiment.experiment_id], "tags.arm != 'summary'")
    return {int(run.data.tags["trial"]): run for run in found}


def test_a_rebuilt_view_is_all_that_was_there(locations: Locations, client: MlflowClient) -> None:
    found = runs(client)
    assert sorted(found) == list(range(7))
    result = Store(locations.root).trial("cell-3")
    assert result is not None
    run = found[3]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/perplexity"] == pytest.approx(result.test_score.perplexity)
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == [point.tokens for point in result.curve]
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert files >= {"adapter_model.safetensors", "samples.md"}
    experiment = client.get_experiment_by_name("made")
    (summary,) = client.search_runs([experiment.experiment_id], "tags.arm = 'summary'")
    files = {item.path for item in client.list_artifacts(summary.info.run_id)}
    assert files == {"report.html", "arms.md", "arms.csv"}


def test_every_disagreement_is_named_and_mended(locations: Locations, client: MlflowClient) -> None:
    found = runs(client)
    client.set_terminated(found[0].info.run_id, "KILLED")
    client.delete_run(found[1].info.run_id)
    (locations.root / "cells" / "cell-2" / "checkpoints" / "step-1").mkdir(parents=True)
    ledger = Ledger(grid(8), locations.storage, {"weights": "w", "corpus": "c"})
    trial = ledger.take()
    assert trial is not None
    study = optuna.load_study(study_name="made", storage=locations.storage)
    trial = optuna.trial.Trial(study, study.trials[trial.number]._trial_id)
    trial.set_user_attr("worker", "another machine:1")
    trial.set_user_attr("alive", 0.0)
    tracker = Tracker(locations.root)
    tags = {"study": "made", "arm": "none", "trial": 99}
    tags = {name: str(value) for name, value in tags.items()}
    orphan = tracker.create(tracker.experiment("made", ""), Run("orphan", "orphan", tags=tags))
    words = [fault.what for fault in doctor.examine(locations)]
    expected = [
        "trial 2 (last) is complete, but its checkpoints still take up disk space",
        "trial 7 (last) is running, but its process is dead",
        "trial 0 (none): its run is KILLED, 0 points missing",
        "trial 1 (first) has no run in MLflow",
        f"run {orphan} in MLflow belongs to no trial",
    ]
    for part in expected:
        assert any(part.split(" (")[0] in word for word in words), (part, words)
    assert len(words) == 5
    folder = doctor.backup(locations)
    assert {path.name for path in folder.iterdir()} == {"optuna.db", "mlflow.db"}
    assert [doctor.mended(fault) for fault in doctor.examine(locations)].count(False) == 1
    assert [fault.what for fault in doctor.examine(locations)] == [expected[-1]]
    assert sorted(runs(client)) == [*range(7), 99]


def test_what_only_a_sweep_can_mend_is_said(locations: Locations) -> None:
    shutil.rmtree(locations.root / "cells" / "cell-4")
    (locations.root / "cells" / "cell-5" / "adapter" / "adapter_model.safetensors").unlink()
    faults = list(doctor.examine(locations))
    assert [fault.mend for fault in faults] == [None, None]
    assert "its result is missing" in faults[0].what
    assert "its adapter is missing" in faults[1].what


def test_names_that_lead_elsewhere_are_refused_and_nothing_is_copied(
    locations: Locations, client: MlflowClient
) -> None:
    store = Store(locations.root)
    adapter = store.folder("cell-3") / "adapter"
    (adapter / "secret").symlink_to("/etc/hostname")
    for run in runs(client).values():
        client.delete_run(run.info.run_id)
    ledger = Ledger(grid(8), locations.storage, {"weights": "w", "corpus": "c"})
    trial = ledger.take()
    assert trial is not None
    outside = locations.root.parent / "outside"
    ledger.note(trial, cell="../../outside", record="../../outside", untrained="untrained-none")
    ledger.fail(trial, "odd", again=False)
    words = [fault.what for fault in doctor.examine(locations) if not doctor.mended(fault)]
    assert any(f"{adapter / 'secret'} is a link" in word for word in words)
    assert any("'../../outside' is not a cell" in word for word in words)
    assert sorted(runs(client)) == [0, 1, 2, 4, 5, 6]
    assert not outside.exists()


def test_what_an_earlier_version_left_to_tell_is_named_and_goes(locations: Locations) -> None:
    (locations.root / "outbox").mkdir()
    (locations.root / "outbox" / "old.jsonl").touch()
    (fault,) = doctor.examine(locations)
    assert "earlier version" in fault.what
    assert doctor.mended(fault)
    assert list(doctor.examine(locations)) == []


def test_a_trial_shown_twice_and_a_summary_that_is_gone_are_mended(
    locations: Locations, client: MlflowClient
) -> None:
    experiment = client.get_experiment_by_name("made")
    tags = {"study": "made", "arm": "none", "trial": "0"}
    Tracker(locations.root).create(experiment.experiment_id, Run("made-0", "twin", tags=tags))
    (summary,) = client.search_runs([experiment.experiment_id], "tags.arm = 'summary'")
    client.delete_run(summary.info.run_id)
    words = " ".join(fault.what for fault in doctor.examine(locations) if doctor.mended(fault))
    assert "is a second run of trial 0" in words
    assert "the study has no summary in MLflow" in words
    assert list(doctor.examine(locations)) == []
    assert sorted(runs(client)) == list(range(7))


@pytest.mark.slow
def test_a_store_of_an_older_mlflow_is_named_and_brought_up(locations: Locations) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    old = Locations(locations.root.with_name("old"))  # MLflow keeps connections to a file it knows
    shutil.copytree(locations.root, old.root)
    path = old.root / "mlflow.db"
    path.unlink()
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    config = utils._get_alembic_config(f"sqlite:///{path}")
    head = utils._get_latest_schema_revision()
    before = ScriptDirectory.from_config(config).get_revision(head).down_revision
    command.upgrade(config, before)
    (fault,) = doctor.examine(old)
    assert fault.what == "the tables are those of an older MLflow"
    assert fault.mend is not None
    fault.mend()
    doctor.rebuild(old, lambda _: None)
    assert list(doctor.examine(old)) == []


def test_a_summary_older_than_its_trials_is_named_and_rewritten(
    locations: Locations, client: MlflowClient
) -> None:
    ledger = Ledger(grid(8), locations.storage, {"weights": "w", "corpus": "c"})
    trial = ledger.take()
    assert trial is not None
    ledger.fail(trial, "odd", again=False)
    (fault,) = doctor.examine(locations)
    assert fault.what == "the summary in MLflow is older than the trials"
    assert doctor.mended(fault)
    assert list(doctor.examine(locations)) == []
    assert len(runs(client)) == 7


def test_a_damaged_mlflow_store_is_named_kept_aside_and_rebuilt(locations: Locations) -> None:
    bad = Locations(locations.root.with_name("bad"))  # MLflow keeps connections to a file it knows
    shutil.copytree(locations.root, bad.root)
    (bad.root / "mlflow.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(MissingError, match=r"--rebuild-mlflow") as error:
        list(doctor.examine(bad))
    assert "\n" not in str(error.value)
    folder = doctor.backup(bad)
    assert (folder / "mlflow.db").read_bytes() == b"garbage" * 1000
    again = Locations(locations.root.with_name("again"))
    shutil.copytree(bad.root, again.root)
    doctor.rebuild(again, lambda _: None)
    assert list(doctor.examine(again)) == []
