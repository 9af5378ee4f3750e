"""A study from start to end: tickets from the ledger, trials on the bench, what they show.

In a folder of its own storage a study is run by one command at a time, which a lock sees to; with
PostgreSQL by any number, on any machines.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import filelock

from pressft import compare, disk, scan
from pressft._signals import Stopping
from pressft.attempts import Attempts
from pressft.context import Context, prepare
from pressft.corpus import summary
from pressft.errors import MissingError, RefusedError
from pressft.model import base as models
from pressft.progress import Reporter
from pressft.report import finding as arms
from pressft.report import status
from pressft.report.finding import Finding
from pressft.spec import WHOLE, ScanSpec, TrialSpec, resolve
from pressft.study import prompts
from pressft.study.halving import Rungs
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.reader import Running
from pressft.study.results import Store
from pressft.study.study import Study
from pressft.study.trials import Row
from pressft.tracking import runs
from pressft.tracking.display import Display

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


class Crew(Protocol):
    """Processes that work on a study in our place."""

    def drain(
        self,
        start_id: str,
        recover: Callable[[str, str], Sequence[Row]],
        look: Callable[[], None],
        stopping: Stopping,
    ) -> None:
        """Return when there is nothing left to take; of a worker that died, and why, tell
        `recover`, which returns the trials that it leaves; call `look` every few seconds.

        Raises:
            Stopped: a signal; all of them have saved and left.
        """


def run(
    study: Study,
    report: Reporter,
    locations: Locations,
    experiment: str = "",
    crew: Crew | None = None,
    until: float = float("inf"),
) -> Outcome:
    """Run, or go on with, a study until it has all its trials, by itself or with a `crew`; its runs
    go to the MLflow `experiment`, named like the study unless given. After `until`, in seconds
    since 1970, no new trial is taken.

    Raises:
        RefusedError: another process works on it, or it exists with another definition.
        Stopped: SIGINT or SIGTERM; the trial at hand is closed and will be run again.
        PressftError: corpus, model or store cannot be used; nothing has been started then.
        MissingError: the disk is full; the same command goes on from where it was.
    """
    texts = prompts.load(study.prompts, study.questions)  # refuse before anything is started
    with _lock(locations, study.name), Stopping() as stopping:
        sweep = _open(study, report, locations, experiment)
        sweep.ledger.describe(
            prompts=dataclasses.asdict(texts),
            environment=runs.environment(),
            corpus_summary=dataclasses.asdict(summary.summary(sweep.context.text.corpus)),
        )
        return sweep.run(stopping, crew, until)


def work(
    study: Study, report: Reporter, locations: Locations, start_id: str, until: float = float("inf")
) -> None:
    """Take trials of a study that another process watches over, until there are none to take.

    Raises:
        As `run`.
    """
    with Stopping() as stopping:
        sweep = _open(study, report, locations, "", start_id)
        with sweep.display as display:
            sweep.work(stopping, until)
            display.flush()


def _open(
    study: Study, report: Reporter, locations: Locations, experiment: str, start_id: str = ""
) -> "_Sweep":
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
    display = Display(ledger, locations, report, experiment)
    report.setup("opening the stores", 1, 1)
    return _Sweep(context, ledger, display, report, locations)


def run_one(spec: TrialSpec, report: Reporter, locations: Locations) -> Outcome:
    """One trial as a study of its own; all such trials share the MLflow experiment `runs`.

    Raises:
        As `run`.
    """
    name = spec.cell(spec.model, (), f"{spec.corpus} {spec.remove}")
    return run(Study(f"run-{name}", spec, {}), report, locations, experiment="runs")


class _Sweep:
    """The parts of one running sweep."""

    def __init__(
        self,
        context: Context,
        ledger: Ledger,
        display: Display,
        report: Reporter,
        locations: Locations,
    ) -> None:
        self.study, self.context, self.ledger = ledger.design, context, ledger
        self.display, self.report, self.locations = display, report, locations
        self.attempts = Attempts(context, ledger, display, report, locations)

    def run(self, stopping: Stopping, crew: Crew | None, until: float) -> Outcome:
        """All that is open, one trial after the other or by the crew."""
        if self.ledger.grown:
            self.report.say(f"{self.study.name} grows: {self.ledger.grown}")
        for row in self.recover():
            self.report.say(f"trial {row.number} was left unfinished: its cell is run again")
        context, names = self.context, self.study.arms()
        self.report.plan(
            self.study.name,
            context.tested_tokens(self.study.base) * len(names)
            + self.a_trial() * self.ledger.n_open(),
        )
        rows = self.ledger.rows()
        before = {row.number for row in rows if not row.is_open}
        with self.display:
            for arm in names:
                self.attempts.untrained(arm, self.report.advance)
            if crew:
                crew.drain(self.ledger.start_id, self.recover, self.watch(), stopping)
            else:
                self.work(stopping, until)
            finding = self.finish()
        rows = self.ledger.rows()
        new = [row for row in rows if row.number not in before]
        reused = sum(bool(row.attrs.get("reused")) for row in new if row.state == "complete")
        return Outcome(
            trained=sum(row.state == "complete" for row in new) - reused,
            reused=reused,
            pruned=sum(row.state == "pruned" for row in new),
            failed=sum(row.state == "fail" and bool(row.attrs.get("failed_in")) for row in new),
            done=sum(row.is_done for row in rows),
            asked=self.study.n_trials,
            finding=finding,
            timed_out=time.time() > until and self.ledger.n_open() > 0,
        )

    def a_trial(self) -> int:
        """Scored-token equivalents of a trial, on average: halving trains most of them in part."""
        return round(self.context.cost(self.study.base) * Rungs(self.study).share())

    def recover(self, worker: str = "", reason: str = "its process died") -> list[Row]:
        """Close what dead processes left, in both views."""
        left = self.ledger.recover(worker, reason)
        for row in left:
            if name := row.attrs.get("record"):
                self.display.killed(str(name), fault=reason)
        return left

    def watch(self) -> Callable[[], None]:
        """A look at how far the workers are from here: trials that are over, and those at work by
        their last validation."""
        whole = self.a_trial()

        def units(at_work: Sequence[Running]) -> int:
            done = sum(row.is_done for row in self.ledger.rows())
            return whole * done + sum(whole * trial.tokens // trial.of for trial in at_work)

        shown = units(())

        def look() -> None:
            nonlocal shown
            at_work = self.ledger.running()
            now = max(shown, units(at_work))  # one that died begins again
            self.report.advance("; ".join(map(str, at_work)) or "starting workers", now - shown)
            shown = now

        return look

    def work(self, stopping: Stopping, until: float) -> None:
        """Trials until there are none to take, also none that others may yet leave."""
        while time.time() < until:
            ticket = self.ledger.take()
            for row in self.ledger.behind():
                self.attempts.end_at_rest(row)
            if ticket:
                self.attempts.one(ticket, stopping)
            elif self.ledger.busy():
                time.sleep(WAIT_S)
                self.recover()
            else:
                return

    def finish(self) -> Finding:
        """What only the whole study knows: shares healed, costs, readings, and the summary."""
        with self.ledger.ending:
            done = status.by_arm(self.ledger.rows(), self.context.store)
            chosen = {arm: best for arm in done if (best := arms.choose(done[arm]))}
            if whole := chosen.get(WHOLE):
                before = {arm: self.attempts.untrained(arm) for arm in done}
                self.display.recoveries(before, done, whole)
            specs = [self.study.spec(remove=arm) for arm in self.study.arms()]
            healed = {arm: trials[0].result for arm, trials in chosen.items()}
            texts = prompts.load(self.study.prompts, self.study.questions)
            compare.measure_costs(self.context, specs, self.report.setup)
            compare.answer(self.context, specs, healed, texts, self.report.setup)
            self.display.complete()
        return status.finding(self.study.name, self.locations)


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
