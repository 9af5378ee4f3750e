"""A real study end to end on a tiny model: Optuna, MLflow and files agree, nothing runs twice."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas
import pytest
from listening import TINY, Listener
from mlflow import MlflowClient

from pressft import doctor, plan, sweep
from pressft.context import prepare
from pressft.errors import DataError, RefusedError, UsageError
from pressft.report import page as report
from pressft.report import status, tables
from pressft.spec import TrialSpec
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.results import Store
from pressft.study.scans import Scan
from pressft.study.study import Choices, Study
from pressft.sweep import Outcome
from pressft.training import loop

BASE = dataclasses.replace(TINY, model="tiny-qwen3", tokens=2560)
STUDY = Study("study", BASE, {"remove": Choices("none", "first"), "rank": Choices(2, 4)})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "mlruns"


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def outcome(root: Path, listener: Listener) -> Outcome:
    return sweep.run_sweep(STUDY, listener, Locations(root))


@pytest.fixture(scope="module")
def client(root: Path, outcome: Outcome) -> MlflowClient:
    assert outcome.trained
    return MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


@pytest.fixture(scope="module")
def fresh(root: Path, outcome: Outcome) -> Callable[[Path], Path]:
    """Copies an MLflow store with its experiment (a new one costs seconds), without trials."""
    assert outcome.trained

    def copy(target: Path) -> Path:
        target.mkdir(parents=True)
        (target / "mlflow.db").write_bytes((root / "mlflow.db").read_bytes())
        return target

    return copy


def runs(client: MlflowClient, name: str = "study") -> list[object]:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [run for run in found if run.data.tags["arm"] != "summary"]


def test_every_trial_is_one_finished_run_with_its_curves(client: MlflowClient) -> None:
    found = runs(client)
    assert len(found) == 4
    assert {run.info.status for run in found} == {"FINISHED"}
    for run in found:
        assert run.data.tags.keys() >= {"study", "arm", "trial", "cell", "corpus", "git_commit"}
        histories = {k: client.get_metric_history(run.info.run_id, k) for k in run.data.metrics}
        assert len(histories) <= 15
        assert len(histories["train/loss"]) == 10
        assert len(histories["eval/loss"]) == 5
        for key, points in histories.items():
            steps = [point.step for point in points]
            assert steps == sorted(set(steps)), key  # law 9: every step once
            assert steps[-1] == 2560
        assert run.data.metrics["test/perplexity_untrained"] > run.data.metrics["test/perplexity"]
        assert ("test/recovery" in run.data.metrics) == (run.data.tags["arm"] != "none")


def test_a_run_tells_its_params_datasets_and_files(client: MlflowClient, root: Path) -> None:
    run = next(r for r in runs(client) if r.data.tags["arm"] == "first")
    expected = dataclasses.asdict(dataclasses.replace(BASE, remove="first"))
    shown = {key: run.data.params[key] for key in expected}
    assert shown == {key: str(value) for key, value in expected.items()}
    assert run.data.params["remove_layers"] == "[0]"
    inputs = {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}
    assert set(inputs) == {"invented/train", "invented/validation", "invented/test"}
    assert len(set(inputs.values())) == 3
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert files >= {"adapter_model.safetensors", "removal.json", "samples.md", "environment.json"}
    folder = root / "artifacts" / "study" / run.info.run_id / "artifacts"
    assert json.loads((folder / "removal.json").read_text())["layers"] == [0]


def test_law_9_optuna_and_mlflow_say_the_same(client: MlflowClient, root: Path) -> None:
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{root / 'optuna.db'}")
    by_trial = {int(run.data.tags["trial"]): run for run in runs(client)}
    assert len(by_trial) == len(study.trials) == 4
    for trial in study.trials:
        run = by_trial[trial.number]
        assert trial.user_attrs["record"] == run.data.tags["record"]
        assert trial.user_attrs["cell"] == run.data.tags["cell"]
        assert trial.value == pytest.approx(run.data.metrics["eval/loss"])


def test_the_summary_run_holds_the_table(client: MlflowClient, outcome: Outcome) -> None:
    experiment = client.get_experiment_by_name("study")
    found = client.search_runs([experiment.experiment_id], "tags.arm = 'summary'")
    assert len(found) == 1
    assert tables.markdown(outcome.finding) in found[0].data.tags["mlflow.note.content"]
    files = {item.path for item in client.list_artifacts(found[0].info.run_id)}
    assert files == {"report.html", "arms.md", "arms.csv"}


def test_the_planned_work_is_the_work_done(outcome: Outcome, listener: Listener) -> None:
    assert outcome.trained == 4
    assert listener.planned == listener.done > 0


def test_the_store_holds_the_study_alone(client: MlflowClient) -> None:
    assert [item.name for item in client.search_experiments()] == ["study"]


def test_law_8_the_same_command_again_trains_nothing(root: Path, outcome: Outcome) -> None:
    again = sweep.run_sweep(STUDY, Listener(), Locations(root))
    assert (again.trained, again.reused) == (0, 0)
    assert again.finding == outcome.finding
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    assert len(runs(client)) == 4
    assert all(
        len(client.get_metric_history(run.info.run_id, "test/recovery")) <= 1
        for run in runs(client)
    )


def test_law_8_another_study_answers_known_cells_and_says_so(root: Path, outcome: Outcome) -> None:
    assert outcome.trained
    space = {"remove": Choices("none", "0"), "rank": Choices(4)}
    listener = Listener()
    found = sweep.run_sweep(Study("other", BASE, space), listener, Locations(root))
    assert (found.trained, found.reused) == (0, 2)
    assert sum("known from an earlier run" in line for line in listener.lines) == 2
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    assert {run.data.tags["reused"] for run in runs(client, "other")} == {"true"}
    assert {
        len(client.get_metric_history(r.info.run_id, "train/loss")) for r in runs(client, "other")
    } == {10}


def test_status_shows_the_table_from_files_alone(root: Path, outcome: Outcome) -> None:
    assert status.finding("study", Locations(root)) == outcome.finding
    with pytest.raises(UsageError, match="no study 'stud'"):
        status.finding("stud", Locations(root))


def test_a_failing_trial_does_not_end_the_study(
    fresh: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = loop.steps

    def broken(model: object, data: object, spec: TrialSpec, *rest: object) -> object:
        if spec.rank == 2:
            raise OSError("no space left on device")
        return steps(model, data, spec, *rest)  # type: ignore[arg-type]

    root = fresh(tmp_path / "mlruns")
    study = dataclasses.replace(STUDY, name="faulty")
    monkeypatch.setattr(loop, "steps", broken)
    first = sweep.run_sweep(study, Listener(), Locations(root))
    assert (first.trained, first.failed) == (2, 2)
    monkeypatch.undo()
    second = sweep.run_sweep(study, Listener(), Locations(root))
    assert (second.trained, second.failed) == (2, 0)
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    states = [run.info.status for run in runs(client, "faulty")]
    assert sorted(states) == ["FAILED", "FAILED", *["FINISHED"] * 4]
    faults = {run.data.tags.get("fault") for run in runs(client, "faulty")}
    assert faults == {None, "OSError: no space left on device"}


def test_a_second_process_on_one_study_is_refused(root: Path, outcome: Outcome) -> None:
    assert outcome.trained
    with (
        sweep._lock(Locations(root), "study"),
        pytest.raises(RefusedError, match="another process"),
    ):
        sweep.run_sweep(STUDY, Listener(), Locations(root))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"corpus": "corpora/nowhere"}, DataError, "no corpus folder corpora/nowhere"),
        ({"remove": "9"}, UsageError, "layer 9 of a 4-layer model"),
        ({"model": "tiny-lama"}, UsageError, "no such folder or preset"),
        ({"optimizer": "adamw-8bit"}, UsageError, "needs a CUDA device"),
    ],
)
def test_bad_input_starts_nothing(
    tmp_path: Path, changes: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sweep.run_one(dataclasses.replace(BASE, **changes), Listener(), Locations(tmp_path))
    assert not [file for file in tmp_path.iterdir() if not file.name.endswith(".lock")]


@pytest.fixture
def command(fresh: Callable[[Path], Path], tmp_path: Path) -> list[str]:
    """A sweep of a long trial, as a process of its own in a folder of its own."""
    fresh(tmp_path / "mlruns")
    (tmp_path / "long.py").write_text(
        "from pressft.study.study import Study\nfrom pressft.spec import TrialSpec\n"
        "STUDY = Study('long', TrialSpec(model='tiny-llama', corpus='invented', rank=2, "
        "tokens=400_000, batch=4, block=64, window=128, validation_tokens=1000), {})\n"
    )
    return [sys.executable, "-m", "pressft", "sweep", "long.py"]


@pytest.mark.whole
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_closes_the_trial_truthfully(
    command: list[str], tmp_path: Path, number: int, code: int
) -> None:
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        experiment = client.get_experiment_by_name("long")
        if experiment and any("train/loss" in run.data.metrics for run in runs(client, "long")):
            break
        assert process.poll() is None
        time.sleep(0.3)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert [run.info.status for run in runs(client, "long")] == ["KILLED"]
    storage = f"sqlite:///{tmp_path / 'mlruns' / 'optuna.db'}"
    study = optuna.load_study(study_name="long", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["FAIL"]


@pytest.mark.whole
def test_the_ui_serves_the_runs_to_this_machine_alone_and_stops_cleanly(
    root: Path, outcome: Outcome
) -> None:
    assert outcome.trained
    command = [sys.executable, "-m", "pressft", "ui", "--port", "0"]
    process = subprocess.Popen(command, cwd=root.parent, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first, link = process.stdout.readline(), process.stdout.readline()
    url = first.split()[2]
    assert url.startswith("http://127.0.0.1:")
    assert link.strip().split(":")[0] in {"study", "other"}
    body = json.dumps({"max_results": 9}).encode()
    asked = urllib.request.Request(
        f"{url}/api/2.0/mlflow/experiments/search",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        names = {item["name"] for item in json.load(answer)["experiments"]}
    assert "study" in names
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


@pytest.mark.whole
def test_a_study_of_the_best_of_a_scan_reads_and_foretells(
    fresh: Callable[[Path], Path], tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("The ferry\nA tram\n")
    (tmp_path / "q.jsonl").write_text('{"question": "Where?", "answer": "Brelin"}\n')
    study = Study(
        "scanned",
        dataclasses.replace(BASE, general="invented", mix=0.25, tokens=512, batch=2),
        {"remove": Choices("none", "best-of-scan(4)")},
        prompts=str(tmp_path / "p.txt"),
        questions=str(tmp_path / "q.jsonl"),
    )
    locations = Locations(fresh(tmp_path / "mlruns"))
    found = sweep.run_sweep(study, Listener(), locations).finding
    (path,) = locations.root.glob("scans/*.json")
    scan = Scan.from_json(path.read_text())
    assert tuple(arm.arm for arm in found.arms) == ("none", *scan.best(4))
    assert found.n_ranked == 4
    for arm in found.arms:
        assert arm.cost is not None
        assert arm.general is not None
        assert arm.answers is not None
        assert arm.trained is not None
        assert arm.trained.answers is not None
        assert arm.trained.answers.scores != arm.answers.scores
        assert arm.trained.forgetting is not None
    client = MlflowClient(f"sqlite:///{locations.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("scanned")
    (summary,) = client.search_runs([experiment.experiment_id], "tags.arm = 'summary'")
    folder = locations.root / "artifacts" / "scanned" / summary.info.run_id / "artifacts"
    rows = pandas.read_json(folder / "continuations.json", orient="split")
    sides = ["whole untrained", "whole trained", "cut untrained", "cut trained"]
    assert list(rows) == ["arm", "prompt", "decoding", *sides]
    assert len(rows) == 4 * 2 * 2
    assert rows["cut trained"][0] == found.arms[1].trained.answers.greedy[0]
    answers = pandas.read_json(folder / "answers.json", orient="split")
    assert list(answers["right answer"]) == ["Brelin"] * 4
    assert (answers["log-likelihood, cut trained"] < 0).all()
    tables_ = json.loads(summary.data.tags["mlflow.loggedArtifacts"])
    assert {item["path"] for item in tables_} == {"continuations.json", "answers.json"}
    again = sweep.run_sweep(study, Listener(), locations)
    assert (again.trained, again.finding) == (0, found)


def test_a_plan_knows_what_is_done_and_what_is_not(root: Path, outcome: Outcome) -> None:
    nobody = Listener().setup
    found = plan.outline(STUDY, Locations(root), nobody)
    assert outcome.done == len(found.cells)
    assert all(cell.known for cell in found.cells)
    assert [(arm.trials, arm.known, arm.tokens) for arm in found.arms] == [(2, 2, 0)] * 2
    assert [arm.removed for arm in found.arms] == [(), ("0",)]
    assert plan.measured(STUDY, found, Locations(root), nobody).seconds == 0
    more = dataclasses.replace(STUDY, name="more", space={**STUDY.space, "rank": Choices(2, 8)})
    found = plan.outline(more, Locations(root), nobody)
    assert [cell.known for cell in found.cells] == [True, True, False, False]
    assert [(arm.trials, arm.known, arm.tokens) for arm in found.arms] == [(2, 1, 2560)] * 2
    assert found.seconds is None
    found = plan.measured(more, found, Locations(root), nobody)
    assert found.arms[0].seconds > found.arms[1].seconds > 0  # a layer less is less work
    assert found.peak_bytes > 2**20


def test_an_outline_waits_for_no_torch(root: Path, outcome: Outcome) -> None:
    assert outcome.trained
    code = (
        "import sys; from pathlib import Path; from pressft import plan; "
        "from pressft.spec import TrialSpec; from pressft.study.locations import Locations; "
        "from pressft.study.study import Choices, Study; "
        "spec = TrialSpec(model='tiny-qwen3', corpus='invented'); "
        "study = Study('s', spec, {'remove': Choices('none', 'last')}); "
        "found = plan.outline(study, Locations(Path(sys.argv[1])), lambda *_: None); "
        "print([arm.removed for arm in found.arms], {'torch', 'transformers'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[(), ('3',)] set()\n"


def test_a_loss_that_is_not_finite_ends_its_trial_and_is_not_tried_again(
    fresh: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = fresh(tmp_path / "mlruns")
    study = Study("wild", BASE, {"learning_rate": Choices(1e30, 5e-3)})
    first = sweep.run_sweep(study, Listener(), Locations(root))
    assert (first.trained, first.failed) == (1, 1)
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    failed = next(run for run in runs(client, "wild") if run.info.status == "FAILED")
    assert "a lower learning rate" in failed.data.tags["fault"]
    stored = optuna.load_study(study_name="wild", storage=f"sqlite:///{root / 'optuna.db'}")
    assert stored.best_params["learning_rate"] == 5e-3
    again = sweep.run_sweep(study, Listener(), Locations(root))
    assert (again.trained, again.failed) == (0, 0)


def test_a_trial_behind_its_arm_ends_early_in_both_views(
    fresh: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = fresh(tmp_path / "mlruns")
    rates = Choices(5e-3, 5.1e-3, 5.2e-3, 1e-7)
    study = Study("slow", BASE, {"learning_rate": rates}, pruning="median")
    outcome = sweep.run_sweep(study, Listener(), Locations(root))
    assert (outcome.trained, outcome.pruned, outcome.done) == (3, 1, 4)
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    found = {run.data.params["learning_rate"]: run for run in runs(client, "slow")}
    assert found["1e-07"].info.status == "KILLED"
    assert "is behind" in found["1e-07"].data.tags["pruned"]
    assert "test/perplexity" not in found["1e-07"].data.metrics
    stored = optuna.load_study(study_name="slow", storage=f"sqlite:///{root / 'optuna.db'}")
    assert [trial.state.name for trial in stored.trials] == ["COMPLETE"] * 3 + ["PRUNED"]
    again = sweep.run_sweep(study, Listener(), Locations(root))
    assert (again.trained, again.pruned) == (0, 0)
    ahead = plan.outline(study, Locations(root), Listener().setup)
    assert [cell.known for cell in ahead.cells] == [True] * 4  # one that ended early, too


def test_law_9_a_trial_killed_between_its_notes_does_not_orphan_an_earlier_record(
    fresh: Callable[[Path], Path], tmp_path: Path
) -> None:
    locations = Locations(fresh(tmp_path / "mlruns"))
    study = Study("orphan", BASE, {})
    context = prepare(BASE, Store(locations.root), lambda *_: None)
    identity = context.identity
    for notes in ({"cell": context.cell(BASE), "record": "first"}, {"cell": context.cell(BASE)}):
        ledger = Ledger(study, locations.storage, identity)
        ledger.recover()
        trial = ledger.take()
        assert trial is not None
        ledger.note(trial, **notes)
    assert sweep.run_sweep(study, Listener(), locations).trained == 1
    last = status.find("orphan", locations).trials[-1]
    assert (last.state, last.attrs["record"]) == ("complete", "first")


def test_no_trial_is_taken_when_the_time_is_over(root: Path, outcome: Outcome) -> None:
    study = dataclasses.replace(STUDY, name="late")
    found = sweep.run_sweep(study, Listener(), Locations(root), until=time.time() - 1)
    assert (found.done, found.asked, found.timed_out) == (0, outcome.asked, True)
    renamed = sweep.run_sweep(study, Listener(), Locations(root))  # as `--as late` does
    assert (renamed.trained, renamed.reused, renamed.timed_out) == (0, 4, False)


HALVED = Study(
    "halved",
    BASE,
    {"remove": Choices("none", "first", "last"), "learning_rate": Choices(5e-3, 1e-3, 1e-7)},
    pruning="halving",
)


def test_law_10_a_trial_that_rested_ends_as_one_that_never_did(
    fresh: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = fresh(tmp_path / "mlruns")
    listener = Listener()
    outcome = sweep.run_sweep(HALVED, listener, Locations(root))
    assert (outcome.trained, outcome.pruned, outcome.done) == (3, 6, 9)
    assert "1e-07" in " ".join(said for said in listener.lines if "is behind" in said)

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    found = runs(client, "halved")
    assert len(found) == 9  # one trial, one run (law 9)
    assert sorted(run.info.status for run in found) == ["FINISHED"] * 3 + ["KILLED"] * 6
    for run in found:
        assert ("pruned" in run.data.tags) == (run.info.status == "KILLED")
        points = client.get_metric_history(run.info.run_id, "train/loss")
        assert len({p.step for p in points}) == len(points)
        whole = run.info.status == "FINISHED"
        assert max(p.step for p in points) == (BASE.trained_tokens if whole else 256)
    assert not list(root.glob("cells/*/checkpoints"))

    alone = fresh(tmp_path / "alone")
    sweep.run_sweep(dataclasses.replace(HALVED, pruning="none"), Listener(), Locations(alone))
    theirs = {path.parent.name: path for path in alone.glob("cells/*/result.json")}
    ours = [p for p in root.glob("cells/*/result.json") if not p.parent.name.startswith("untr")]
    assert len(ours) == 3
    for path in ours:
        mine, other = (json.loads(p.read_text()) for p in (path, theirs[path.parent.name]))
        assert mine["test"] == other["test"]
        assert mine["validation"] == other["validation"]
        losses = [[at, m["eval/loss"]] for at, m, _ in mine["curve"] if "eval/loss" in m]
        assert losses == [[at, m["eval/loss"]] for at, m, _ in other["curve"] if "eval/loss" in m]

    answered = sweep.run_sweep(  # every cell is known: also one that is gets no more than its rung
        dataclasses.replace(HALVED, name="again"), Listener(), Locations(alone)
    )
    assert (answered.trained, answered.reused, answered.pruned) == (0, 9, 0)


def test_arms_that_are_behind_end_early_and_the_report_says_so(
    fresh: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = fresh(tmp_path / "mlruns")
    study = dataclasses.replace(HALVED, name="arms", pruning="halving-arms")
    outcome = sweep.run_sweep(study, Listener(), Locations(root))
    assert (outcome.trained, outcome.pruned, outcome.done) == (2, 7, 9)
    finding = outcome.finding
    ended = {arm.arm: (arm.trials, arm.ended_early) for arm in finding.arms}
    assert ended["none"] == (1, 2)
    assert sorted([ended["first"], ended["last"]]) == [(0, 3), (1, 2)]
    assert finding.best is not None
    page = report.html("arms", Locations(root))
    assert page.count("0 (3 early)") == 1
    assert "far above" not in page  # they ended early, not badly
    faults = list(doctor.examine(Locations(root)))
    assert not faults
