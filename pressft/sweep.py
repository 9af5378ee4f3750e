"""A study from start to end: its trials one after the other, their results, what MLflow shows.

In a folder of its own storage a study is run by one command at a time, which a lock sees to; with
PostgreSQL by any number, on any machines.
"""

import dataclasses
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import filelock

from pressft import scan
from pressft._assets import Progress
from pressft._files import digest, disk_trouble
from pressft._signals import Stopped, Stopping
from pressft.context import Context, prepare
from pressft.corpus.summary import summary as corpus_summary
from pressft.errors import MissingError, PressftError, RefusedError
from pressft.evaluation import answers, cost
from pressft.model import adapter, files
from pressft.plan import check_disk
from pressft.progress import Reporter
from pressft.report import finding as arms
from pressft.report import status, tables
from pressft.report.finding import Finding
from pressft.spec import ScanSpec, TrialSpec, resolve
from pressft.study import prompts, reader
from pressft.study.halving import Halving
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.prompts import Prompts
from pressft.study.reader import ENVIRONMENT
from pressft.study.results import Point, Store, TrialResult, Untrained
from pressft.study.study import Study
from pressft.study.trials import Trial, now_ms
from pressft.tracking import runs, summary, sync
from pressft.tracking.client import AwayError, GoneError, RejectedError, Tracker
from pressft.tracking.sync import Sync
from pressft.training import checkpoint
from pressft.training.checkpoint import KEPT
from pressft.training.loop import Step
from pressft.trial import Advance, DivergedError, cut, untrained_key
from pressft.trial import steps as trial_steps
from pressft.trial import untrained as score_untrained
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


def run_sweep(
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
        facts = {
            "prompts": dataclasses.asdict(texts),
            "environment": runs.environment(),
            "corpus_summary": dataclasses.asdict(corpus_summary(sweep.context.text.corpus)),
        }
        sweep.ledger.describe(facts)
        return sweep.run(stopping, pool, until)


def work(
    study: Study, report: Reporter, locations: Locations, start_id: str, until: float = float("inf")
) -> None:
    """Take trials of a study that another process watches over, until there are none to take.

    Raises:
        As `run_sweep`.
    """
    with Stopping() as stopping:
        sweep = _open(study, report, locations, start_id)
        with sweep.sync:
            sweep.work(stopping, until)
            sweep.sync.flush()


def _open(study: Study, report: Reporter, locations: Locations, start_id: str = "") -> "Sweep":
    """Model, text and stores of a study; a mistake is named before anything is started."""
    study = dataclasses.replace(
        study, base=dataclasses.replace(study.base, model=files.resolve(study.base.model))
    )
    context = prepare(study.base, Store(locations.root), report.setup)
    study = _scanned(study, context, report, locations)
    for arm in study.arms():
        resolve(arm, context.base.n_layers)
    check_disk(study, context.base.model, locations.root)
    report.setup("opening the stores", 0, 1)
    ledger = Ledger(study, locations.storage, context.identity, start_id)
    tracker = Tracker(locations.root, locations.tracking_uri)
    data = runs.datasets(context.text.corpus, study.base)
    ledger.describe({"datasets": [dataclasses.asdict(item) for item in data]})
    report.setup("opening the stores", 1, 1)
    return Sweep(context, ledger, tracker, report, locations)


def run_one(spec: TrialSpec, report: Reporter, locations: Locations) -> Outcome:
    """One trial as a study of its own; all such trials share the MLflow experiment `runs`.

    Raises:
        As `run_sweep`.
    """
    return run_sweep(study_of(spec), report, locations)


def study_of(spec: TrialSpec) -> Study:
    """One trial as a study."""
    name = spec.cell(spec.model, (), f"{spec.corpus} {spec.remove}")
    return Study(f"{runs.SINGLE}{name}", spec, {})


def single_result(study: str, locations: Locations) -> TrialResult:
    """What the one trial of a study scored.

    Raises:
        PressftError: it failed; the message says why.
    """
    trials = reader.read(study, locations.storage).trials
    done = [trial for trial in trials if trial.state == "complete"]
    if not done:
        raise PressftError(f"the trial failed: {trials[-1].attrs.get('fault', 'no reason known')}")
    return Store(locations.root).known(done[-1].cell)


class Pruned(Exception):
    """A trial is behind its arm, and ends early."""


class Rested(Exception):
    """A trial has come as far as it was to, and is saved."""


class Sweep:
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
        self.summarized = 0  # trials that the summary in MLflow knows
        environment = runs.environment()
        self.environment = digest(environment)
        ledger.describe({f"{ENVIRONMENT}{self.environment}": environment})
        self.stored = reader.read(study.name, locations.storage)
        self.scored: dict[str, Untrained] = {}  # of each arm's cut, before training

    def run(self, stopping: Stopping, pool: WorkerPool | None, until: float) -> Outcome:
        """All that is open, one trial after the other or by the pool."""
        if self.ledger.extension:
            self.report.say(f"{self.study.name} grows: {self.ledger.extension}")
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
                self.untrained(arm, self.report.advance)
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
        return round(self.context.cost(self.study.base) * Halving(self.study).trained_share())

    def recover(self, worker: str = "", reason: str = "its process died") -> list[Trial]:
        """Close what dead processes left; what their checkpoints hold of their curves is kept."""
        left = self.ledger.recover(worker, reason)
        for trial in left:
            if "record" in trial.attrs:
                folder = self.context.store.folder(trial.cell) / "checkpoints"
                self.keep_curve(trial, checkpoint.curve(folder))
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
            for ended in self.ledger.newly_pruned():
                self.end(ended, str(ended.attrs["pruned"]))
            if trial:
                self.run_trial(trial, stopping)
            elif self.ledger.others_running():
                time.sleep(WAIT_S)
                self.recover()
            else:
                return

    def finish(self) -> Finding:
        """What only the whole study knows: inference cost, answers, and all that MLflow lacks."""
        with self.ledger.finish_lock:
            done = status.by_arm(self.ledger.trials(), self.context.store)
            chosen = {arm: best for arm in done if (best := arms.choose(done[arm]))}
            specs = [self.study.spec(remove=arm) for arm in self.study.arms()]
            healed = {arm: trials[0].result for arm, trials in chosen.items()}
            texts = prompts.load(self.study.prompts, self.study.questions)
            measure_costs(self.context, specs, self.report.setup)
            answer(self.context, specs, healed, texts, self.report.setup)
            self.complete()
        return status.finding(self.study.name, self.locations)

    def complete(self) -> None:
        """Write what MLflow lacks of the study, or say that it does lack it."""
        try:
            if left := self.sync.flush():
                raise AwayError(f"MLflow has not taken {left} runs")
            with self.sync.paused():  # matplotlib draws in one thread at a time
                seen = status.look(self.study.name, self.locations)
                sync.study(self.tracker, seen, self.context.store, self.report.say)
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

    def untrained(self, arm: str, advance: Advance = lambda *_: None) -> Untrained:
        """What an arm's cut scores before training."""
        if arm not in self.scored:
            spec = self.study.spec(remove=arm)
            self.scored[arm] = score_untrained(self.context, spec, advance)
        return self.scored[arm]

    def run_trial(self, trial: Trial, stopping: Stopping) -> None:
        """Run a trial, or answer it from an earlier result (law 8)."""
        spec = trial.spec
        cell = self.context.cell(spec)
        trial = self.start(trial, cell)
        curve: list[Point] = []

        try:
            with self.context.store.lock(cell):
                known = self.context.store.trial(cell)
                if known:
                    self.report.advance(f"{spec.remove}: known", self.context.cost(spec))
                result = known or self.train(trial, curve, stopping)
            self.keep(trial, result, reused=known is not None)
        except Stopped:
            with self.ledger.brief_retries():
                self.fail(trial, curve, "stopped by a signal", again=True, interrupted=True)
            raise
        except Rested:
            self.keep_curve(trial, curve)
            self.ledger.pause(trial)
            self.show(trial)
        except Pruned as reason:
            self.keep_curve(trial, curve)
            self.ledger.prune(trial, str(reason))
            self.end(trial, str(reason))
        except DivergedError as error:
            self.fail(trial, curve, str(error), again=False)
        except Exception as error:
            if full := disk_trouble(self.locations.root):
                with suppress(Exception):  # the storage may be on the same disk
                    self.fail(trial, curve, full, again=True, interrupted=True)
                raise MissingError(f"{full}; the same command goes on from here") from error
            refused = isinstance(error, PressftError)
            fault = "refused" if refused else f"{type(error).__name__}: {error}".splitlines()[0]
            self.fail(trial, curve, fault, again=True)
            if refused:
                raise

    def train(self, trial: Trial, curve: list[Point], stopping: Stopping) -> TrialResult:
        """The result of a trial; its points go into `curve`, and to MLflow as they come.

        Raises:
            Pruned: it is behind its arm.
            Rested: it has come as far as it was to, and is saved.
            Stopped: a signal; the step at hand is finished and saved.
            What `trial.steps` raises.
        """
        spec, rests, far = trial.spec, False, ""
        until, run = (
            self.ledger.next_rung(trial),
            runs.of_trial(self.stored, trial, self.context.store),
        )

        def advance(what: str, units: int) -> None:
            self.report.advance(what + far, units)

        with closing(trial_steps(self.context, spec, advance, self.report.say)) as steps:
            with stopping.patience():  # until training is over, a signal waits for the step's end
                for step in steps:
                    if step.point:
                        curve.append(step.point)
                        at = f"{step.tokens:,} of {spec.trained_tokens:,} tokens"
                        far = f", loss {step.metrics['train/loss']:.3f} at {at}"
                        self.sync.show(dataclasses.replace(run, points=tuple(curve)))
                    if step.diverged:
                        continue  # the trial ends with that
                    self.prune(trial, step)
                    rests = until is not None and step.tokens >= until
                    ends = rests or bool(stopping.signum)
                    if ends:
                        step.save(kept=1 if rests else KEPT)  # many may rest at a time
                    if ends or step.number == spec.steps:
                        break
            if rests:
                raise Rested
            for _ in steps:  # none is left: the test split is scored, and a signal ends that
                pass
        return self.context.store.known(self.context.cell(spec))

    def prune(self, trial: Trial, step: Step) -> None:
        """Keep a validation loss in the ledger, and end a trial that is behind its arm."""
        loss = step.metrics.get("eval/loss")
        if loss is not None and self.ledger.should_prune(trial, step.tokens, loss):
            raise Pruned(f"after {step.tokens:,} tokens its validation loss {loss:.4g} is behind")

    def start(self, trial: Trial, cell: str) -> Trial:
        """The trial with its record noted: its own where it has rested, that of a trial of the same
        cell that was cut short, or a new one. From here on MLflow shows it."""
        study, spec = self.study.name, trial.spec
        self.untrained(spec.remove)  # a worker learns of an arm by its first trial
        record, started = f"{study}-{trial.number:05d}-{uuid.uuid4().hex[:8]}", now_ms()
        for other in reversed(self.ledger.trials()):
            rested = other.number == trial.number
            died = "died_in" in other.attrs or other.attrs.get("interrupted")
            cut_short = other.state == "fail" and died and other.cell == cell
            if (rested or cut_short) and "record" in other.attrs:  # one may die before it has one
                record = str(other.attrs["record"])
                started = int(other.attrs.get("started", started))
                break
        self.ledger.note(
            trial,
            cell=cell,
            record=record,
            untrained=untrained_key(self.context, spec),
            started=started,
            environment=self.environment,
        )
        return self.show(trial)

    def show(self, trial: Trial) -> Trial:
        """Let MLflow show a trial as it is stored now, which is returned."""
        stored = self.ledger.trial(trial.number)
        self.sync.show(runs.of_trial(self.stored, stored, self.context.store))
        return stored

    def keep(self, trial: Trial, result: TrialResult, *, reused: bool) -> None:
        """Close a trial that has a result."""
        for point in result.curve if reused else ():
            if "eval/loss" in point.metrics:
                self.ledger.record_loss(trial, point.tokens, point.metrics["eval/loss"])
        score = result.test_score
        self.ledger.note(trial, test_loss=score.loss, reused=reused)
        ours = self.ledger.complete(trial, result.validation.loss)
        self.show(trial)
        self.report.say(
            f"{runs.name(trial.spec)}: test perplexity "
            + tables.number(score.perplexity)
            + (" (known from an earlier run)" if reused else f" in {result.total_s:.0f} s")
            + ("" if ours else "; others took the trial for dead, and will find its result")
        )

    def fail(
        self,
        trial: Trial,
        curve: Sequence[Point],
        fault: str,
        *,
        again: bool,
        interrupted: bool = False,
    ) -> None:
        """Close a trial that has no result; one that is tried `again` keeps its checkpoints."""
        self.keep_curve(trial, curve)
        self.ledger.fail(trial, fault, again=again, interrupted=interrupted)
        self.end(trial, fault, resumable=again)

    def keep_curve(self, trial: Trial, curve: Sequence[Point]) -> None:
        """Keep the curve of a trial without a result: MLflow can be rebuilt from it."""
        if curve:
            self.context.store.save_curve(trial.cell, str(trial.attrs["record"]), tuple(curve))

    def end(self, trial: Trial, why: str, *, resumable: bool = False) -> None:
        """Show a trial that ended without a result; its checkpoints go if it never goes on."""
        self.show(trial)
        self.report.say(f"{runs.name(trial.spec)}: {why}")
        if not resumable:
            folder = self.context.store.folder(trial.cell) / "checkpoints"
            shutil.rmtree(folder, ignore_errors=True)


def measure_costs(context: Context, arms: Sequence[TrialSpec], progress: Progress) -> None:
    """Measure all the cuts in turn, unless each has been on this machine."""
    keys = {spec.remove: untrained_key(context, spec) for spec in arms}
    known = {arm: context.store.cost(key) for arm, key in keys.items()}
    if all(measured and measured.machine == cost.machine() for measured in known.values()):
        return
    cuts = {spec.remove: resolve(spec.remove, context.base.n_layers) for spec in arms}
    for arm, measured in cost.measure(context.base, cuts, progress).items():
        context.store.save_cost(keys[arm], measured)


def answer(
    context: Context,
    arms: Sequence[TrialSpec],
    trained: Mapping[str, TrialResult],
    prompts: Prompts,
    progress: Progress,
) -> None:
    """Let every cut base and every arm's trained model answer, unless it has done so before."""
    if not prompts:
        return
    key, store, model = answers.key(prompts), context.store, context.base.model
    for done, spec in enumerate(arms):
        progress("answering prompts and questions", done, len(arms))
        untrained, result = untrained_key(context, spec), trained.get(spec.remove)
        with cut(context, spec) as removal:
            if (known := store.answers(untrained)) is None or known.key != key:
                store.save_answers(
                    untrained, answers.answer(model, context.base.tokenizer, prompts)
                )
            if result is None:
                continue
            if (known := store.answers(result.cell)) is None or known.key != key:
                folder = store.folder(result.cell) / "adapter"
                with adapter.loaded(model, removal, context.base.identity, folder) as healed:
                    found = answers.answer(healed, context.base.tokenizer, prompts)
                store.save_answers(result.cell, found)
    progress("answering prompts and questions", len(arms), len(arms))


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
    found = scan.stored_scan(context.base, context.text.corpus, spec, report, locations)
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
