"""A study from start to end: trials from the ledger, their results, what MLflow shows of them.

In a folder of its own storage a study is run by one command at a time, which a lock sees to; with
PostgreSQL by any number, on any machines.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import filelock

from pressft import compare, disk, scan
from pressft._signals import Stopping
from pressft.attempts import Attempts
from pressft.context import Context, prepare
from pressft.errors import MissingError, RefusedError
from pressft.model import base as models
from pressft.progress import Reporter
from pressft.report import finding as arms
from pressft.report import status
from pressft.report.finding import Finding
from pressft.spec import ScanSpec, TrialSpec, resolve
from pressft.study import prompts
from pressft.study.halving import Rungs
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.results import Store
from pressft.study.study import Study
from pressft.study.trials import Trial
from pressft.tracking import runs, summary, sync
from pressft.tracking.client import AwayError, GoneError, RejectedError, Tracker
from pressft.tracking.sync import Sync
from pressft.training import checkpoint
from pressft.workers import WorkerPool

WAIT_S = 0.5  # between two looks whether others have left something to do


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep did: trials trained now, answered from known cells, ended early, failed; done in
    all of how many asked for; what the study found; whether its time was over first."""

    trained: int
    reused: int
    pruned: int
    failed: int
    done: int
    asked: int
    finding: Finding
    timed_out: bool = False

    def __str__(self) -> str:
        """The counts as a line."""
        parts = [f"{self.done} of {self.asked} trials done", f"{self.trained} trained now"]
        parts += [f"{self.reused} from known cells"] if self.reused else []
        parts += [f"{self.pruned} ended early"] if self.pruned else []
        parts += [f"{self.failed} failed; run the command again"] if self.failed else []
        return ", ".join(parts)


def run(
    study: Study,
    report: Reporter,
    locations: Locations,
    pool: WorkerPool | None = None,
    until: float = float("inf"),
) -> Outcome:
    """Run, or resume, a study until it has all its trials, alone or by a `pool` of workers. After
    `until`, in seconds since 1970, no new trial is taken.

    Raises:
        RefusedError: another process works on it, or it exists with another definition.
        Stopped: SIGINT or SIGTERM; the trial at hand is closed and will be run again.
        PressftError: corpus, model or store cannot be used; nothing has been started then.
        MissingError: the disk is full; the same command goes on from where it was.
    """
    texts = prompts.load(study.prompts, study.questions)  # refuse before anything is started
    with _lock(locations, study.name), Stopping() as stopping:
        sweep = _open(study, report, locations)
        facts = {"prompts": dataclasses.asdict(texts), "environment": runs.environment()}
        sweep.ledger.describe(facts)
        return sweep.run(stopping, pool, until)


def work(
    study: Study, report: Reporter, locations: Locations, start_id: str, until: float = float("inf")
) -> None:
    """Take trials of a study that another process watches over, until there are none to take.

    Raises:
        As `run`.
    """
    with Stopping() as stopping:
        sweep = _open(study, report, locations, start_id)
        with sweep.sync:
            sweep.work(stopping, until)
            sweep.sync.flush()


def _open(study: Study, report: Reporter, locations: Locations, start_id: str = "") -> "_Sweep":
    """Model, text and stores of a study; a mistake is named before anything is started."""
    study = dataclasses.replace(
        study, base=dataclasses.replace(study.base, model=models.resolve(study.base.model))
    )
    context = prepare(study.base, Store(locations.root), report.setup)
    study = _scanned(study, context, report, locations)
    for arm in study.arms():
        resolve(arm, context.base.n_layers)
    disk.check(study, context.base.model, locations.root)
    report.setup("opening the stores", 0, 1)
    base = context.base
    identity = {
        "weights": base.identity,
        "precision": base.precision,
        "corpus": context.fingerprint,
    }
    ledger = Ledger(study, locations.storage, identity, start_id)
    tracker = Tracker(locations.root, locations.tracking_uri)
    data = runs.datasets(context.text.corpus, study.base)
    ledger.describe({"datasets": [dataclasses.asdict(item) for item in data]})
    report.setup("opening the stores", 1, 1)
    return _Sweep(context, ledger, tracker, report, locations)


def run_one(spec: TrialSpec, report: Reporter, locations: Locations) -> Outcome:
    """One trial as a study of its own; all such trials share the MLflow experiment `runs`.

    Raises:
        As `run`.
    """
    name = spec.cell(spec.model, (), f"{spec.corpus} {spec.remove}")
    return run(Study(f"{runs.SINGLE}{name}", spec, {}), report, locations)


class _Sweep:
    """The parts of one running sweep."""

    def __init__(
        self,
        context: Context,
        ledger: Ledger,
        tracker: Tracker,
        report: Reporter,
        locations: Locations,
    ) -> None:
        study = ledger.design
        self.study, self.context, self.ledger, self.tracker = study, context, ledger, tracker
        self.report, self.locations = report, locations
        experiment = runs.experiment(study.name)
        self.sync = Sync(tracker, experiment, study.question, report.say, self.summarize)
        self.attempts = Attempts(context, ledger, self.sync, report, locations)
        self.summarized = 0  # trials that the summary in MLflow knows

    def run(self, stopping: Stopping, pool: WorkerPool | None, until: float) -> Outcome:
        """All that is open, one trial after the other or by the pool."""
        if self.ledger.grown:
            self.report.say(f"{self.study.name} grows: {self.ledger.grown}")
        for trial in self.recover():
            self.report.say(f"trial {trial.number} was left unfinished: its cell is run again")
        context, names = self.context, self.study.arms()
        self.report.plan(
            self.study.name,
            context.tested_tokens(self.study.base) * len(names)
            + self.a_trial() * self.ledger.n_open(),
        )
        trials = self.ledger.trials()
        before = {trial.number for trial in trials if not trial.is_open}
        with self.sync:
            for arm in names:
                self.attempts.untrained(arm, self.report.advance)
            if pool:
                pool.run(self.ledger.start_id, self.recover, self.watch(), stopping)
            else:
                self.work(stopping, until)
            finding = self.finish()
        trials = self.ledger.trials()
        new = [trial for trial in trials if trial.number not in before]
        reused = sum(bool(trial.attrs.get("reused")) for trial in new if trial.state == "complete")
        return Outcome(
            trained=sum(trial.state == "complete" for trial in new) - reused,
            reused=reused,
            pruned=sum(trial.state == "pruned" for trial in new),
            failed=sum(
                trial.state == "fail" and bool(trial.attrs.get("failed_in")) for trial in new
            ),
            done=sum(trial.is_done for trial in trials),
            asked=self.study.n_trials,
            finding=finding,
            timed_out=time.time() > until and self.ledger.n_open() > 0,
        )

    def a_trial(self) -> int:
        """Scored-token equivalents of a trial, on average: halving trains most of them in part."""
        return round(self.context.cost(self.study.base) * Rungs(self.study).share())

    def recover(self, worker: str = "", reason: str = "its process died") -> list[Trial]:
        """Close what dead processes left; what their checkpoints hold of their curves is kept."""
        left = self.ledger.recover(worker, reason)
        for trial in left:
            if "record" in trial.attrs:
                folder = self.context.store.folder(trial.cell) / "checkpoints"
                self.attempts.keep_curve(trial, checkpoint.curve(folder))
        return left

    def watch(self) -> Callable[[], None]:
        """Returns what reports how far the workers are: trials that are over, and running ones by
        their last validation."""
        whole = self.a_trial()

        def units(running: Sequence[Trial]) -> int:
            done = sum(trial.is_done for trial in self.ledger.trials())
            return whole * done + sum(
                whole * trial.tokens // trial.spec.trained_tokens for trial in running
            )

        shown = units(())

        def look() -> None:
            nonlocal shown
            running = self.ledger.running()
            now = max(shown, units(running))  # one that died begins again
            self.report.advance(
                "; ".join(trial.progress for trial in running) or "starting workers", now - shown
            )
            shown = now

        return look

    def work(self, stopping: Stopping, until: float) -> None:
        """Trials until there are none to take, also none that others may yet leave."""
        while time.time() < until:
            trial = self.ledger.take()
            for ended in self.ledger.behind():
                self.attempts.end(ended, str(ended.attrs["pruned"]))
            if trial:
                self.attempts.one(trial, stopping)
            elif self.ledger.busy():
                time.sleep(WAIT_S)
                self.recover()
            else:
                return

    def finish(self) -> Finding:
        """What only the whole study knows: inference cost, answers, and all that MLflow lacks."""
        with self.ledger.ending:
            done = status.by_arm(self.ledger.trials(), self.context.store)
            chosen = {arm: best for arm in done if (best := arms.choose(done[arm]))}
            specs = [self.study.spec(remove=arm) for arm in self.study.arms()]
            healed = {arm: trials[0].result for arm, trials in chosen.items()}
            texts = prompts.load(self.study.prompts, self.study.questions)
            compare.measure_costs(self.context, specs, self.report.setup)
            compare.answer(self.context, specs, healed, texts, self.report.setup)
            self.complete()
        return status.finding(self.study.name, self.locations)

    def complete(self) -> None:
        """Write what MLflow lacks of the study, or say that it does lack it."""
        try:
            if left := self.sync.flush():
                raise AwayError(f"MLflow has not taken {left} runs")
            seen = status.look(self.study.name, self.locations)
            sync.study(self.tracker, seen, self.context.store)
            self.summarized = -1
            self.summarize()
        except (AwayError, GoneError, RejectedError) as error:
            self.report.say(
                f"{error}: the next start writes what it lacks, and so does `pressft doctor --fix`"
            )

    def summarize(self) -> None:
        """Write the summary of the study, where there is more than was shown before."""
        n = sum(trial.is_done for trial in self.ledger.trials())
        if n != self.summarized and not self.study.name.startswith(runs.SINGLE):
            summary.write(self.tracker, self.study.name, self.locations)
        self.summarized = n


def _scanned(study: Study, context: Context, report: Reporter, locations: Locations) -> Study:
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
    found = scan.on(context.base, context.text.corpus, spec, report, locations)
    return study.with_scan(found.best(study.scanned))


@contextmanager
def _lock(locations: Locations, study: str) -> Iterator[None]:
    """One command at a time for a study whose storage is a file."""
    root = locations.root
    lock = filelock.FileLock(root / f".{study}.lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        if locations.storage.startswith("sqlite"):
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
