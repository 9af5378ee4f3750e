"""Runs in MLflow: one experiment a study, one flat run a trial, and a `summary` run.

The only room that knows MLflow. What it writes is a projection of Optuna's storage and of the
files under `mlruns/cells` (law 9). Runs are written by explicit id: the fluent interface keeps a
global stack of active runs, and is not safe in threads.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

CLOSED = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
os.environ.update(CLOSED)  # before mlflow is imported

import filelock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from pressft.errors import MissingError

STORE = "mlflow.db"
SUMMARY = "summary"


Rows = Sequence[Mapping[str, object]]  # of a table, alike in their keys; one at least


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset of a run: `digest` is our own sha256, MLflow's looks at 10,000 rows only."""

    name: str
    digest: str
    source: str
    context: str  # training, validation or test
    profile: str  # JSON


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the store knows it: RUNNING, FINISHED, FAILED or KILLED, and its trial's number."""

    run_id: str
    status: str
    trial: int


class Tracker:
    """One MLflow store, a local folder unless a server is named."""

    def __init__(self, root: Path, uri: str | None = None) -> None:
        """Open the store; a new local one is set up first, by one process at a time.

        Raises:
            MissingError: the store or the server cannot be reached.
        """
        self.root = root.resolve()
        self.uri = uri or f"sqlite:///{self.root / STORE}"
        self._local = uri is None
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel("WARNING")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # three processes that set up one SQLite file at once crash
            with filelock.FileLock(self.root / ".mlflow.lock"):
                if self._local and not (self.root / STORE).is_file():
                    _set_up(self.root)
                self._client = MlflowClient(self.uri)
                self._client.search_experiments(max_results=1)
        except (OSError, MlflowException) as error:
            raise MissingError(f"MLflow store: {str(error).splitlines()[0]}") from error

    def experiment(self, study: str, question: str) -> str:
        """Id of the study's experiment, made if it is not there; artifacts lie under the root."""
        found = self._client.get_experiment_by_name(study)
        if found is not None:
            return str(found.experiment_id)
        location = (self.root / "artifacts" / study).as_uri() if self._local else None
        tags = {"mlflow.note.content": question}
        return str(self._client.create_experiment(study, location, tags))

    def start(
        self,
        experiment: str,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        data: list[Data],
    ) -> str:
        """Id of a new running run."""
        tags_ = {key: str(value) for key, value in tags.items()} | {"mlflow.runName": name}
        run_id = str(self._client.create_run(experiment, tags=tags_).info.run_id)
        pairs = [Param(key, str(value)) for key, value in params.items()]
        self._client.log_batch(run_id, params=pairs)
        if data:
            self._client.log_inputs(run_id, [_input(item) for item in data])
        return run_id

    def log(self, run_id: str, tokens: int, metrics: Mapping[str, float]) -> None:
        """Points of curves; the x axis is tokens seen."""
        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, tokens) for key, value in metrics.items()]
        self._client.log_batch(run_id, metrics=batch)

    def reopen(self, run_id: str, tags: Mapping[str, object]) -> "Curve | None":
        """Go on with a run that was cut short; None if it is not there any more."""
        try:
            run = self._client.get_run(run_id)
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException:
            return None
        if "fault" in run.data.tags:
            self._client.delete_tag(run_id, "fault")
        self.tag(run_id, **{key: str(value) for key, value in tags.items()})
        return Curve(self, run_id, self.points(run_id))

    def points(self, run_id: str) -> set[tuple[str, int]]:
        """Key and tokens of every point that a run has."""
        return {
            (key, point.step)
            for key in self._client.get_run(run_id).data.metrics
            for point in self._client.get_metric_history(run_id, key)
        }

    def experiments(self) -> list[tuple[str, str]]:
        """Name and id of each experiment, the one written last first."""
        found = self._client.search_experiments(order_by=["last_update_time DESC"])
        return [(str(item.name), str(item.experiment_id)) for item in found]

    def runs(self, experiment: str, study: str) -> list[Run]:
        """The runs of a study's trials, the summary left out."""
        found = self._client.search_runs(
            [experiment], f"tags.study = '{study}' and tags.arm != '{SUMMARY}'", max_results=50_000
        )
        return [Run(r.info.run_id, r.info.status, int(r.data.tags["trial"])) for r in found]

    def log_once(self, run_id: str, tokens: int, key: str, value: float) -> None:
        """A number of the finished study; a point that repeats the last one is left out."""
        if self._client.get_run(run_id).data.metrics.get(key) != value:
            self.log(run_id, tokens, {key: value})

    def tag(self, run_id: str, **tags: str) -> None:
        """Set tags of a run."""
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def files(self, run_id: str, folder: Path) -> None:
        """Copy a folder's files to the run's artifacts."""
        self._client.log_artifacts(run_id, str(folder))

    def texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Write small artifacts, by file name."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                (Path(folder) / name).write_text(text)
            self.files(run_id, Path(folder))

    def finish(self, run_id: str, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run_id, status)

    def close_left_open(self, experiment: str, study: str) -> int:
        """Mark runs as killed that a dead process left running; how many there were."""
        running = f"attributes.status = 'RUNNING' and tags.study = '{study}'"
        left = self._client.search_runs([experiment], running)
        for run in left:
            self.finish(run.info.run_id, "KILLED")
        return len(left)

    def summary(
        self,
        experiment: str,
        study: str,
        note: str,
        texts: Mapping[str, str],
        tables: Mapping[str, Rows],
    ) -> None:
        """Write the study's one `summary` run anew; `tables` are what MLflow shows as tables."""
        found = self._client.search_runs([experiment], f"tags.arm = '{SUMMARY}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
        else:
            run_id = self.start(experiment, SUMMARY, {}, {"study": study, "arm": SUMMARY}, [])
        # as `mlflow.log_table` writes them, but anew each time: that one appends
        named = [{"path": f"{name}.json", "type": "table"} for name in tables]
        tags = {"mlflow.note.content": note, "mlflow.loggedArtifacts": json.dumps(named)}
        self.tag(run_id, **tags)
        written = {
            f"{name}.json": json.dumps(
                {"columns": list(rows[0]), "data": [[*r.values()] for r in rows]}
            )
            for name, rows in tables.items()
        }
        self.texts(run_id, {**texts, **written})
        self.finish(run_id, "FINISHED")


def _set_up(root: Path) -> None:
    """Make a new store aside and name it when it is whole: MLflow takes seconds to set one up, and
    a kill within them leaves one that nobody can open or mend."""
    part = root / f".new-{STORE}"
    for left in root.glob(f"{part.name}*"):
        left.unlink()  # with its journal
    client = MlflowClient(f"sqlite:///{part}")
    for item in client.search_experiments(view_type=ViewType.ALL):
        client.delete_experiment(item.experiment_id)  # its empty `Default`, first in every list
    part.replace(root / STORE)


class Curve:
    """The points of one run, each of them once, however often it is told of them."""

    def __init__(
        self, tracker: Tracker, run_id: str, known: Set[tuple[str, int]] = frozenset()
    ) -> None:
        """`known` holds key and tokens of the points that the run has already."""
        self.run_id = run_id
        self._tracker, self._known = tracker, set(known)

    def log(self, tokens: int, metrics: Mapping[str, float]) -> None:
        """Log those of the points that are new."""
        new = {key: value for key, value in metrics.items() if (key, tokens) not in self._known}
        if new:
            self._tracker.log(self.run_id, tokens, new)
            self._known |= {(key, tokens) for key in new}


def _input(item: Data) -> DatasetInput:
    dataset = Dataset(
        name=item.name,
        digest=item.digest[:32],  # MLflow allows 36 characters
        source_type="local",
        source=item.source,
        profile=item.profile,
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", item.context)])
