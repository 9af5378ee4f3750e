"""Runs in MLflow: one experiment a study, one flat run a trial, and a `summary` run.

The only room that knows MLflow. What it writes is a projection of Optuna's storage and of the
files under `mlruns/cells` (law 9). Runs are written by explicit id: the fluent interface keeps a
global stack of active runs, and is not safe in threads.
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

CLOSED = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
# a request repeated unseen could make a run twice: whoever calls repeats, and looks first
ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # stdout holds results alone
os.environ.update(CLOSED | ONCE | QUIET)  # before mlflow is imported

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
OPEN = {"RUNNING", "SCHEDULED"}  # of the states of a run
ORDER = ["attributes.start_time ASC"]  # then by id, as MLflow has it
MOST_METRICS = 1000  # that MLflow takes in a batch
REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE"}


Rows = Sequence[Mapping[str, object]]  # of a table, alike in their keys; one at least


class AwayError(MissingError):
    """The server or store does not answer, or not as it should: later it may."""


class RejectedError(PressftError):
    """The server will never take this."""


class GoneError(PressftError):
    """What a call names is not there any more."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A run as MLflow has it: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED; tags, last values."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def record(self) -> str:
        """What tells the run apart from all others of its experiment, whoever writes it."""
        return self.tags.get("record", "")

    @property
    def trial(self) -> int:
        """Number of its trial."""
        return int(self.tags["trial"])


class Tracker:
    """One MLflow store, a local folder unless a server is named.

    Every call may raise AwayError, RejectedError or GoneError.
    """

    def __init__(self, root: Path, uri: str | None = None) -> None:
        """Name the store; a new local one is set up first, by one process at a time. A server is
        not asked before it is needed.

        Raises:
            MissingError: the local store cannot be opened, the address is none.
        """
        self.root = root.resolve()
        self.uri = uri or f"sqlite:///{self.root / STORE}"
        self._local = uri is None
        self._experiments: dict[str, str] = {}
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel("WARNING")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # three processes that set up one SQLite file at once crash
            with filelock.FileLock(self.root / ".mlflow.lock"):
                if self._local and not (self.root / STORE).is_file():
                    _set_up(self.root)
                self._client = MlflowClient(self.uri)
                if self._local:
                    self._client.search_experiments(max_results=1)
                    _move_in(self.root)
        except (OSError, MlflowException) as error:
            raise MissingError(f"MLflow store: {_line(error)}") from error

    def experiment(self, name: str, question: str) -> str:
        """Id of an experiment, made if it is not there, restored if it was deleted: another one
        could not bear its name. Artifacts lie under the root."""
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

    def forget(self) -> None:
        """Look experiments up again: one of them has gone."""
        self._experiments.clear()

    def describe(self, experiment: str, note: str) -> None:
        """The experiment's note, with a link to its curves by arm."""
        link = f"[Curves, grouped by arm](#{page(experiment, by_arm=True)})"
        with _calling():
            self._client.set_experiment_tag(experiment, NOTE, f"{note}\n\n{link}")
            key = f"mlflow.sharedViewState.{VIEW}"
            self._client.set_experiment_tag(experiment, key, json.dumps(BY_ARM))

    def pages(self) -> list[tuple[str, str]]:
        """Name of each experiment and the page of its curves, the one written last first."""
        with _calling():
            found = self._client.search_experiments(order_by=["last_update_time DESC"])
        key = f"mlflow.sharedViewState.{VIEW}"
        return [(str(e.name), page(e.experiment_id, by_arm=key in e.tags)) for e in found]

    def create(self, experiment: str, run: Run) -> str:
        """Id of a new run, now running, with its params, tags and datasets."""
        tags = {**run.tags, "record": run.record, "mlflow.runName": run.name}
        with _calling():
            made = self._client.create_run(experiment, run.started or None, tags)
            run_id = str(made.info.run_id)
            pairs = [Param(key, value) for key, value in run.params.items()]
            self._client.log_batch(run_id, params=pairs)
            if run.datasets:
                self._client.log_inputs(run_id, [_input(item) for item in run.datasets])
        return run_id

    def showing(self, experiment: str, record: str) -> list[Shown]:
        """The runs that show a record, in an order all processes agree on: one, unless two
        processes made it at once, or a request that was taken for lost came through."""
        return self._search(experiment, f"tags.record = '{record}'")

    def runs(self, experiment: str, study: str) -> list[Shown]:
        """The runs of a study's trials, the summary left out."""
        return self._search(experiment, f"tags.study = '{study}' and tags.arm != '{SUMMARY}'")

    def _search(self, experiment: str, words: str) -> list[Shown]:
        found: list[Shown] = []
        token = None
        while True:
            with _calling():
                page_ = self._client.search_runs(
                    [experiment], words, max_results=1000, order_by=ORDER, page_token=token
                )
            found += [
                Shown(r.info.run_id, r.info.status, dict(r.data.tags), dict(r.data.metrics))
                for r in page_
            ]
            if not (token := page_.token):
                return found

    def log(self, run_id: str, points: Iterable[Point]) -> None:
        """Points of curves; one told again with the same time is the same one."""
        metrics = [
            Metric(key, value, point.time, point.tokens)
            for point in points
            for key, value in point.metrics.items()
        ]
        with _calling():
            for start in range(0, len(metrics), MOST_METRICS):
                self._client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])

    def points(self, run_id: str) -> set[tuple[str, int]]:
        """Key and tokens of every point that a run has."""
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
        """RUNNING or SCHEDULED, or over: FINISHED, FAILED or KILLED, at some milliseconds since
        1970."""
        with _calling():
            if status in OPEN:
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status, ended)

    def drop(self, run_id: str) -> None:
        """Put a run among the deleted ones."""
        with _calling():
            self._client.delete_run(run_id)

    def summary(
        self,
        experiment: str,
        study: str,
        note: str,
        texts: Mapping[str, str],
        tables: Mapping[str, Rows],
    ) -> None:
        """Write the study's one `summary` run anew; `tables` are what MLflow shows as tables."""
        record = f"{study}-{SUMMARY}"
        found = self.showing(experiment, record)
        run = Run(record, SUMMARY, tags={"study": study, "arm": SUMMARY})
        run_id = found[0].run_id if found else self.create(experiment, run)
        # as `mlflow.log_table` writes them, but anew each time: that one appends
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


@contextmanager
def _calling() -> Iterator[None]:
    """What a call to MLflow can end in, as one of three errors without an address in it."""
    try:
        yield
    except MlflowException as error:
        line = f"MLflow: {_line(error)}"
        deleted = "must be in the 'active' state" in str(error)  # it is called a bad parameter
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or deleted:
            raise GoneError(line) from error
        if error.error_code in REFUSED:
            raise RejectedError(line) from error
        raise AwayError(line) from error
    except OSError as error:  # a connection, and the file of a local store
        raise AwayError(f"MLflow: {_line(error)}") from error


def _line(error: Exception) -> str:
    """First line of an error, without the names and passwords of addresses."""
    return re.sub(r"://[^@/\s]*@", "://…@", (str(error).splitlines() or [repr(error)])[0])


def page(experiment: str, *, by_arm: bool) -> str:
    """Where MLflow's site shows an experiment's curves overlaid, behind the `#`."""
    view = f"viewStateShareKey={VIEW}&" if by_arm else ""
    mode = "compareRunsMode=CHART&workflowType=machine_learning"  # it opens in "GenAI" mode else
    return f"/experiments/{experiment}/runs?{view}{mode}"


def _move_in(root: Path) -> None:
    """Artifacts under the root are found there, also when it was moved: MLflow keeps absolute
    paths, and has no call to change them."""
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
    """Make a new store aside and name it when it is whole: MLflow takes seconds to set one up, and
    a kill within them leaves one that nobody can open or mend."""
    part = root / f".new-{STORE}"
    for left in root.glob(f"{part.name}*"):
        left.unlink()  # with its journal
    client = MlflowClient(f"sqlite:///{part}")
    for item in client.search_experiments(view_type=ViewType.ALL):
        client.delete_experiment(item.experiment_id)  # its empty `Default`, first in every list
    part.replace(root / STORE)


def outdated(root: Path) -> Callable[[], None] | None:
    """What brings the tables of a local store to the installed MLflow's form; None where they have
    it, or there is no store."""
    if not (root / STORE).is_file():
        return None
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{root.resolve() / STORE}")
    if utils._get_schema_version(engine) == utils._get_latest_schema_revision():
        return None
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
