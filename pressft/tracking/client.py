"""Runs in MLflow: one experiment per study, one flat run per trial, and a `summary` run.

The only module that talks to MLflow. What it writes is a projection of Optuna's storage and of the
files under `mlruns/cells` (law 9). Runs are written by explicit id: the fluent interface keeps a
global stack of active runs, and is not thread-safe.
"""

import json
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HARDENED = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
# an automatic retry could create a run twice: callers retry, and look first
NO_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # stdout holds results alone
os.environ.update(HARDENED | NO_RETRIES | QUIET)  # before mlflow is imported

import filelock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from pressft._text import plain
from pressft.errors import MissingError, PressftError
from pressft.study.results import Point
from pressft.tracking.runs import Data, Run

STORE = "mlflow.db"
SUMMARY = "summary"
NOTE = "mlflow.note.content"  # Markdown, rendered with its pictures
VIEW = "pressft"  # the shared view of an experiment that a link can name: its curves by arm
BY_ARM = {
    "groupBy": {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "arm"}],
    },
    "searchFilter": f"tags.arm != '{SUMMARY}'",
}
OPEN = {"RUNNING", "SCHEDULED"}  # states of a run that has not ended
ORDER = ["attributes.start_time ASC"]  # MLflow then orders by id
MOST_METRICS = 1000  # accepted by MLflow in one batch
REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE"}


Rows = Sequence[Mapping[str, object]]  # of a table, with equal keys; at least one row


class UnreachableError(MissingError):
    """The server or store does not answer, or not properly; a later attempt may succeed."""


class RejectedError(PressftError):
    """The server refuses this, and always will."""


class NotFoundError(PressftError):
    """The run or experiment no longer exists."""


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A run as stored in MLflow; `status` is RUNNING, SCHEDULED, FINISHED, FAILED or KILLED,
    `metrics` holds the last values."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def record(self) -> str:
        """The key that identifies the run within its experiment, whichever process writes it."""
        return self.tags.get("record", "")

    @property
    def trial(self) -> int:
        """The number of its trial."""
        return int(self.tags["trial"])


class Tracker:
    """One MLflow store, a local folder unless `uri` names a server.

    Every method may raise UnreachableError, RejectedError or NotFoundError.
    """

    def __init__(self, root: Path, uri: str | None = None) -> None:
        """Open the store. A new local store is set up first, by one process at a time; a server is
        contacted only when it is needed.

        Raises:
            MissingError: the local store cannot be opened, or `uri` is not valid.
        """
        self.root = root.resolve()
        self.uri = uri or f"sqlite:///{self.root / STORE}"
        self._local = uri is None
        self._experiments: dict[str, str] = {}
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel("WARNING")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # three processes that set up one SQLite file at the same time crash
            with filelock.FileLock(self.root / ".mlflow.lock"):
                if self._local and not (self.root / STORE).is_file():
                    _set_up(self.root)
                self._client = MlflowClient(self.uri)
                if self._local:
                    self._client.search_experiments(max_results=1)
                    _relocate_artifacts(self.root)
        except Exception as error:
            if not isinstance(error, OSError | MlflowException) and not _is_damage(error):
                raise
            cure = "`pressft doctor --rebuild-mlflow` sets it aside and makes a new one"
            raise MissingError(f"MLflow store: {_line(error)}; {cure}") from error

    def experiment(self, name: str, question: str) -> str:
        """The id of an experiment, which is created if it does not exist, and restored if it was
        deleted, because its name stays taken. Its artifacts are kept under the root."""
        if name not in self._experiments:
            with _calling():
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    location = (self.root / "artifacts" / name).as_uri() if self._local else None
                    tags = {NOTE: plain(question)}
                    self._client.create_experiment(name, location, tags)
                    found = self._client.get_experiment_by_name(name)
                elif found.lifecycle_stage == "deleted":
                    self._client.restore_experiment(found.experiment_id)
            self._experiments[name] = str(found.experiment_id)
        return self._experiments[name]

    def forget_experiments(self) -> None:
        """Forget the cached ids of experiments, one of which no longer exists."""
        self._experiments.clear()

    def describe(self, experiment: str, note: str) -> None:
        """Set an experiment's note, with a link to its curves by arm."""
        link = f"[Curves, grouped by arm](#{page(experiment, by_arm=True)})"
        with _calling():
            self._client.set_experiment_tag(experiment, NOTE, f"{note}\n\n{link}")
            key = f"mlflow.sharedViewState.{VIEW}"
            self._client.set_experiment_tag(experiment, key, json.dumps(BY_ARM))

    def pages(self) -> list[tuple[str, str]]:
        """The name of each experiment and the page of its curves, the last updated first."""
        with _calling():
            found = self._client.search_experiments(order_by=["last_update_time DESC"])
        key = f"mlflow.sharedViewState.{VIEW}"
        return [(str(e.name), page(e.experiment_id, by_arm=key in e.tags)) for e in found]

    def create(self, experiment: str, run: Run) -> str:
        """Create a run in state RUNNING, with its params, tags and datasets, and return its id."""
        tags = {**run.tags, "record": run.record, "mlflow.runName": run.name}
        with _calling():
            made = self._client.create_run(experiment, run.started or None, tags)
            run_id = str(made.info.run_id)
            pairs = [Param(key, value) for key, value in run.params.items()]
            self._client.log_batch(run_id, params=pairs)
            if run.datasets:
                self._client.log_inputs(run_id, [_input(item) for item in run.datasets])
        return run_id

    def find_runs(self, experiment: str, record: str) -> list[LoggedRun]:
        """The runs of a record, in the same order for all processes. There is more than one only if
        two processes created it at the same time, or a request taken for lost was executed."""
        return self._search(experiment, f"tags.record = '{record}'")

    def runs(self, experiment: str, study: str) -> list[LoggedRun]:
        """The runs of a study's trials, the summary left out."""
        return self._search(experiment, f"tags.study = '{study}' and tags.arm != '{SUMMARY}'")

    def _search(self, experiment: str, words: str) -> list[LoggedRun]:
        found: list[LoggedRun] = []
        token = None
        while True:
            with _calling():
                page_ = self._client.search_runs(
                    [experiment], words, max_results=1000, order_by=ORDER, page_token=token
                )
            found += [
                LoggedRun(r.info.run_id, r.info.status, dict(r.data.tags), dict(r.data.metrics))
                for r in page_
            ]
            if not (token := page_.token):
                return found

    def log(self, run_id: str, points: Iterable[Point]) -> None:
        """Log points of curves; a point logged again with the same time counts once."""
        metrics = [
            Metric(key, value, point.time, point.tokens)
            for point in points
            for key, value in point.metrics.items()
        ]
        with _calling():
            for start in range(0, len(metrics), MOST_METRICS):
                self._client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])

    def points(self, run_id: str) -> set[tuple[str, int]]:
        """The key and tokens of every point of a run."""
        with _calling():
            return {
                (key, point.step)
                for key in self._client.get_run(run_id).data.metrics
                for point in self._client.get_metric_history(run_id, key)
            }

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        if not tags:
            return
        with _calling():
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def untag(self, run_id: str, names: Iterable[str]) -> None:
        """Remove tags of a run."""
        with _calling():
            for name in names:
                self._client.delete_tag(run_id, name)

    def files(self, run_id: str, folder: Path) -> None:
        """Copy a folder's files to the run's artifacts."""
        with _calling():
            self._client.log_artifacts(run_id, str(folder))

    def texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Write small artifacts, by file name."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                (Path(folder) / name).write_text(text)
            self.files(run_id, Path(folder))

    def set_status(self, run_id: str, status: str, ended: int | None = None) -> None:
        """Set RUNNING or SCHEDULED, or end the run as FINISHED, FAILED or KILLED, at `ended` in
        milliseconds since 1970."""
        with _calling():
            if status in OPEN:
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status, ended)

    def delete(self, run_id: str) -> None:
        """Delete a run; MLflow can restore it."""
        with _calling():
            self._client.delete_run(run_id)

    def summary(
        self,
        experiment: str,
        study: str,
        note: str,
        texts: Mapping[str, str],
        tables: Mapping[str, Rows],
    ) -> str:
        """Write the study's one `summary` run, or rewrite it, and return its id; MLflow shows
        `tables` as tables."""
        record = f"{study}-{SUMMARY}"
        found = self.find_runs(experiment, record)
        run = Run(record, SUMMARY, tags={"study": study, "arm": SUMMARY})
        run_id = found[0].run_id if found else self.create(experiment, run)
        # in the format of `mlflow.log_table`, which appends and therefore cannot rewrite a table
        named = [{"path": f"{name}.json", "type": "table"} for name in tables]
        self.tag(run_id, {NOTE: note, "mlflow.loggedArtifacts": json.dumps(named)})
        written = {
            f"{name}.json": json.dumps(
                {"columns": list(rows[0]), "data": [[*r.values()] for r in rows]}
            )
            for name, rows in tables.items()
        }
        self.texts(run_id, {**texts, **written})
        self.set_status(run_id, "FINISHED")
        return run_id


@contextmanager
def _calling() -> Iterator[None]:
    """Turn the errors of a call to MLflow into one of ours, without an address in the message."""
    try:
        yield
    except MlflowException as error:
        line = f"MLflow: {_line(error)}"
        deleted = "must be in the 'active' state" in str(error)  # reported as a bad parameter
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or deleted:
            raise NotFoundError(line) from error
        if error.error_code in REFUSED:
            raise RejectedError(line) from error
        raise UnreachableError(line) from error
    except OSError as error:  # of the connection, or of the file of a local store
        raise UnreachableError(f"MLflow: {_line(error)}") from error


def _line(error: Exception) -> str:
    """The first line of an error, without the user names and passwords in addresses."""
    return re.sub(r"://[^@/\s]*@", "://…@", (str(error).splitlines() or [repr(error)])[0])


def page(experiment: str, *, by_arm: bool) -> str:
    """The part after `#` of the address at which MLflow shows an experiment's curves overlaid."""
    view = f"viewStateShareKey={VIEW}&" if by_arm else ""
    mode = "compareRunsMode=CHART&workflowType=machine_learning"  # else it opens in "GenAI" mode
    return f"/experiments/{experiment}/runs?{view}{mode}"


def _relocate_artifacts(root: Path) -> None:
    """Point a local store to the artifacts under the root, which may have been moved: MLflow stores
    absolute paths, and has no call to change them."""
    with closing(sqlite3.connect(root / STORE, timeout=60)) as store, store:
        known = store.execute("SELECT experiment_id, name, artifact_location FROM experiments")
        for key, name, old in known.fetchall():
            here = root / "artifacts" / name
            if old == here.as_uri() or not old.endswith(f"/artifacts/{name}") or not here.is_dir():
                continue
            new = here.as_uri()
            store.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, key)
            )
            store.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (new, len(old) + 1, key, len(old), old),
            )


def _set_up(root: Path) -> None:
    """Set up a new store under another name, and rename it when it is complete: MLflow takes
    seconds for it, and a process killed meanwhile would leave a store that cannot be opened."""
    part = root / f".new-{STORE}"
    for left in root.glob(f"{part.name}*"):
        left.unlink()  # and its journal
    client = MlflowClient(f"sqlite:///{part}")
    for item in client.search_experiments(view_type=ViewType.ALL):
        client.delete_experiment(item.experiment_id)  # the empty `Default`, listed first
    part.replace(root / STORE)


def _is_damage(error: Exception) -> bool:
    """Whether an error is that of a database file that cannot be read."""
    return isinstance(error, sqlite3.DatabaseError) or type(error).__module__.startswith(
        "sqlalchemy"
    )


def outdated(root: Path) -> Callable[[], None] | None:
    """The upgrade of a local store's tables to the installed MLflow; None if they are up to date,
    or there is no store."""
    if not (root / STORE).is_file():
        return None
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{root.resolve() / STORE}")
    try:
        if utils._get_schema_version(engine) == utils._get_latest_schema_revision():
            return None
    except Exception as error:
        if not _is_damage(error):
            raise
        return None  # opening the store names it
    return partial(utils._upgrade_db, engine)


def _input(item: Data) -> DatasetInput:
    dataset = Dataset(
        name=item.name,
        digest=item.digest[:32],  # MLflow allows 36 characters
        source_type="local",
        source=item.source,
        profile=item.profile,
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", item.context)])
