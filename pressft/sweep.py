"""A study from start to end: tickets from the ledger, trials on the bench, runs in MLflow.

One process at a time works on a study in a folder; a second one is refused by a lock.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import filelock

from pressft import arms, compare, material, models, projection, runs, status, survey, tables
from pressft import trial as trials
from pressft.arms import Done, Finding
from pressft.console import Reporter
from pressft.design import Study
from pressft.errors import MissingError, PressftError, RefusedError
from pressft.results import Store, TrialResult, Untrained
from pressft.scores import recovery, total
from pressft.signals import Stopped, Stopping
from pressft.spec import ScanSpec, TrialSpec, resolve
from pressft.status import Stores
from pressft.study import Ledger, Ticket
from pressft.tracking import Curve, Tracker
from pressft.training import DivergedError
from pressft.trial import Bench

WAIT_S = 0.5  # between two looks whether others have left something to do


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep did: trials trained now, answered from known cells, failed; done in all of how
    many asked for; what the study found."""

    trained: int
    reused: int
    failed: int
    done: int
    asked: int
    finding: Finding

    def __str__(self) -> str:
        """The counts as a line."""
        parts = [f"{self.done} of {self.asked} trials done", f"{self.trained} trained now"]
        parts += [f"{self.reused} from known cells"] if self.reused else []
        parts += [f"{self.failed} failed; run the command again"] if self.failed else []
        return ", ".join(parts)


class Crew(Protocol):
    """Processes that work on a study in our place."""

    def drain(self, ledger: Ledger, stopping: Stopping) -> None:
        """Return when there is nothing left to take.

        Raises:
            Stopped: a signal; all of them have saved and left.
        """


def run(
    study: Study,
    report: Reporter,
    stores: Stores,
    experiment: str | None = None,
    crew: Crew | None = None,
) -> Outcome:
    """Run, or go on with, a study until it has all its trials, by itself or with a `crew`; its runs
    go to the MLflow `experiment`, named like the study unless given.

    Raises:
        RefusedError: another process works on it, or it exists with another definition.
        Stopped: SIGINT or SIGTERM; the trial at hand is closed and will be run again.
        PressftError: corpus, model or store cannot be used; nothing has been started then.
    """
    texts = material.load(study.prompts, study.questions)  # refuse before anything is started
    with _lock(stores.root, study.name), Stopping() as stopping:
        sweep = _open(study, report, stores, experiment)
        sweep.ledger.describe(material=dataclasses.asdict(texts), environment=runs.environment())
        return sweep.run(stopping, crew)


def work(study: Study, report: Reporter, stores: Stores, start_id: str) -> None:
    """Take trials of a study that another process watches over, until there are none to take.

    Raises:
        As `run`.
    """
    with Stopping() as stopping:
        _open(study, report, stores, None, start_id).work(stopping)


def _open(
    study: Study, report: Reporter, stores: Stores, experiment: str | None, start_id: str = ""
) -> "_Sweep":
    """Model, text and stores of a study; a mistake is named before anything is started."""
    study = dataclasses.replace(
        study, base=dataclasses.replace(study.base, model=models.resolve(study.base.model))
    )
    bench = trials.prepare(study.base, Store(stores.root), report.setup)
    study = _scanned(study, bench, report, stores)
    for arm in study.arms():
        resolve(arm, bench.base.n_layers)
    report.setup("opening the stores", 0, 1)
    identity = {"weights": bench.base.identity, "corpus": bench.fingerprint}
    ledger = Ledger(study, stores.storage, identity, start_id)
    tracker = Tracker(stores.root, stores.tracking_uri)
    report.setup("opening the stores", 1, 1)
    return _Sweep(bench, ledger, tracker, report, stores, experiment)


def run_one(spec: TrialSpec, report: Reporter, stores: Stores) -> Outcome:
    """One trial as a study of its own; all such trials share the MLflow experiment `runs`.

    Raises:
        As `run`.
    """
    name = spec.cell(spec.model, (), f"{spec.corpus} {spec.remove}")
    return run(Study(f"run-{name}", spec, {}), report, stores, experiment="runs")


class _Sweep:
    """The parts of one running sweep."""

    def __init__(
        self,
        bench: Bench,
        ledger: Ledger,
        tracker: Tracker,
        report: Reporter,
        stores: Stores,
        experiment: str | None,
    ) -> None:
        self.study, self.bench, self.ledger = ledger.design, bench, ledger
        self.tracker, self.report, self.stores = tracker, report, stores
        self.shared = experiment is not None
        self.experiment = tracker.experiment(experiment or self.study.name, self.study.question)
        self.untrained: dict[str, Untrained] = {}

    def run(self, stopping: Stopping, crew: Crew | None) -> Outcome:
        """All that is open, one trial after the other or by the crew."""
        for row in self.ledger.recover():
            self.report.say(f"trial {row.number} was left unfinished: its cell is run again")
        self.tracker.close_left_open(self.experiment, self.study.name)
        bench, names = self.bench, self.study.arms()
        self.report.plan(
            self.study.name,
            bench.tested_tokens(self.study.base) * len(names)
            + bench.cost(self.study.base) * self.ledger.n_open(),
        )
        for arm in names:
            spec = self.study.spec(remove=arm)
            self.untrained[arm] = trials.untrained(bench, spec, self.report.advance)
        before = {row.number for row in self.ledger.rows() if row.state in {"complete", "fail"}}
        if crew:
            crew.drain(self.ledger, stopping)
        else:
            self.work(stopping)
        finding = self.finish()
        rows = self.ledger.rows()
        new = [row for row in rows if row.number not in before]
        reused = sum(bool(row.attrs.get("reused")) for row in new if row.state == "complete")
        return Outcome(
            trained=sum(row.state == "complete" for row in new) - reused,
            reused=reused,
            failed=sum(row.state == "fail" and "fault" in row.attrs for row in new),
            done=sum(row.state == "complete" for row in rows),
            asked=self.study.n_trials,
            finding=finding,
        )

    def work(self, stopping: Stopping) -> None:
        """Trials until there are none to take, also none that others may yet leave."""
        while True:
            if ticket := self.ledger.take():
                arm = ticket.spec.remove
                if arm not in self.untrained:  # a worker learns of an arm by its first trial
                    spec = self.study.spec(remove=arm)
                    self.untrained[arm] = trials.untrained(self.bench, spec, lambda *_: None)
                self.one(ticket, stopping)
            elif self.ledger.busy():
                time.sleep(WAIT_S)
            else:
                return

    def one(self, ticket: Ticket, stopping: Stopping) -> None:
        """Run a ticket, or answer it from an earlier result (law 8)."""
        spec = ticket.spec
        cell = self.bench.cell(spec)
        known = self.bench.store.trial(cell)
        curve = self.start(ticket, cell, reused=known is not None)
        run_id = curve.run_id
        key = trials.untrained_key(self.bench, spec)
        self.ledger.note(ticket, cell=cell, mlflow_run=run_id, untrained=key)

        def advance(what: str, units: int) -> None:
            self.report.advance(what, units)
            self.ledger.keep_alive(ticket)

        try:
            if known:
                self.report.advance(f"{spec.remove}: known", self.bench.cost(spec))
                result = known
            else:
                result = trials.run_trial(
                    self.bench,
                    spec,
                    curve.log,
                    advance,
                    self.report.say,
                    stopping,
                )
            self.keep(ticket, curve, result, reused=known is not None)
        except Stopped:
            self.close(ticket, run_id, "stopped by a signal", "KILLED", again=True)
            raise
        except DivergedError as error:
            self.close(ticket, run_id, str(error), "FAILED", again=False)
        except PressftError:
            self.close(ticket, run_id, "refused", "FAILED", again=True)
            raise
        except Exception as error:
            fault = f"{type(error).__name__}: {error}".splitlines()[0]
            self.close(ticket, run_id, fault, "FAILED", again=True)

    def start(self, ticket: Ticket, cell: str, *, reused: bool) -> Curve:
        """The trial's MLflow run: that of an interrupted trial of the same cell, or a new one."""
        spec, corpus = ticket.spec, self.bench.text.corpus
        tags = {
            "study": self.study.name,
            "arm": spec.remove,
            "trial": ticket.number,
            "cell": cell,
            "corpus": corpus.fingerprint,
            "git_commit": runs.commit(),
            "reused": str(reused).lower(),
        }
        for row in reversed(self.ledger.rows()):
            cut_short = "died_in" in row.attrs or row.attrs.get("interrupted")
            if row.state == "fail" and row.attrs.get("cell") == cell and cut_short:
                if found := self.tracker.reopen(str(row.attrs["mlflow_run"]), tags):
                    return found
                break
        params = runs.params(spec, self.untrained[spec.remove])
        data = runs.datasets(corpus, spec)
        run_id = self.tracker.start(self.experiment, runs.name(spec), params, tags, data)
        return Curve(self.tracker, run_id)

    def keep(self, ticket: Ticket, curve: Curve, result: TrialResult, *, reused: bool) -> None:
        """Write a result to MLflow, then close the trial in the ledger."""
        made = json.dumps(runs.environment(), indent=2)
        self.tracker.texts(curve.run_id, {"environment.json": made})
        cut = self.untrained[ticket.spec.remove]
        projection.show_trial(self.tracker, curve, result, cut, self.bench.store)
        self.ledger.note(ticket, test_perplexity=result.test_score.perplexity, reused=reused)
        self.ledger.complete(ticket, result.validation.loss)
        self.report.say(
            f"{runs.name(ticket.spec)}: test perplexity "
            + tables.number(result.test_score.perplexity)
            + (" (known from an earlier run)" if reused else f" in {result.total_s:.0f} s")
        )

    def close(self, ticket: Ticket, run_id: str, fault: str, status: str, *, again: bool) -> None:
        """End a trial that has no result, truthfully in both views."""
        self.tracker.tag(run_id, fault=fault)
        self.tracker.finish(run_id, status)
        self.ledger.fail(ticket, fault, again=again, interrupted=status == "KILLED")
        self.report.say(f"{runs.name(ticket.spec)}: {fault}")

    def finish(self) -> Finding:
        """What only the whole study knows: shares healed, costs, readings, and the summary."""
        done = status.by_arm(self.ledger.rows(), self.bench.store)
        chosen = {arm: best for arm in done if (best := arms.choose(done[arm]))}
        if whole := chosen.get(arms.WHOLE):
            self.recoveries({arm: done[arm] for arm in done if arm != arms.WHOLE}, whole)
        specs = [self.study.spec(remove=arm) for arm in self.study.arms()]
        healed = {arm: trials[0].result for arm, trials in chosen.items()}
        texts = material.load(self.study.prompts, self.study.questions)
        compare.measure_costs(self.bench, specs, self.report.setup)
        compare.read(self.bench, specs, healed, texts, self.report.setup)
        if self.shared:
            return status.finding(self.study.name, self.stores)
        return projection.show_study(self.tracker, self.experiment, self.study.name, self.stores)

    def recoveries(self, cut: Mapping[str, list[Done]], whole: Sequence[Done]) -> None:
        """Log what each cut run healed, measured against the best trained whole model."""
        found = self.tracker.runs(self.experiment, self.study.name)
        run_ids = {run.trial: run.run_id for run in found}
        best = arms.tested(whole)
        for arm, items in cut.items():
            before = total(self.untrained[arm].test)
            for trial in items:
                share = recovery(before, trial.result.test_score, best)
                if share is not None and trial.number in run_ids:
                    run_id, tokens = run_ids[trial.number], trial.result.tokens
                    self.tracker.log_once(run_id, tokens, "test/recovery", share)


def _scanned(study: Study, bench: Bench, report: Reporter, stores: Stores) -> Study:
    """The study with `best-of-scan(k)` replaced by layers, in the order of a scan."""
    if not study.scanned:
        return study
    base = study.base
    spec = ScanSpec(
        model=base.model,
        corpus=base.corpus,
        window=base.window,
        quantization=base.quantization,
        halves=False,
    )
    found = survey.on(bench.base, bench.text.corpus, spec, report, stores)
    return study.with_scan(found.best(study.scanned))


@contextmanager
def _lock(root: Path, study: str) -> Iterator[None]:
    lock = filelock.FileLock(root / f".{study}.lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RefusedError(
            f"study {study} is being run by another process: wait for it, or stop it first"
        ) from None
    except OSError as error:
        raise MissingError(f"{root}: {error.strerror}; runs need a folder to write to") from error
    try:
        yield
    finally:
        lock.release()
