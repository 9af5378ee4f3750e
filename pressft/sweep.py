"""A study from start to end: run its trials, store their results, keep MLflow up to date.

With SQLite a lock ensures that one command at a time runs a study; with PostgreSQL any number may,
on any machines.
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
from pressft.tracking.client import NotFoundError, RejectedError, Tracker, UnreachableError
from pressft.tracking.sync import Sync
from pressft.training import checkpoint
from pressft.training.checkpoint import KEPT
from pressft.training.loop import Step
from pressft.trial import Advance, DivergedError, cut, untrained_key
from pressft.trial import steps as trial_steps
from pressft.trial import untrained as score_untrained
from pressft.workers import WorkerPool

WAIT_S = 0.5  # between two attempts to take a trial while other processes run some


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep did: the numbers of trials trained now, reused from known cells, pruned and
    failed, of trials done in all and asked for; the finding; whether the time ran out first."""

    trained: int
    reused: int
    pruned: int
    failed: int
    done: int
    asked: int
    finding: Finding
    timed_out: bool = False

    def __str__(self) -> str:
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
    """Run or resume a study until it has all its trials, in this process or in a `pool` of workers.
    After `until`, in seconds since 1970, no new trial is started.

    Raises:
        RefusedError: another process runs the study, or it exists with another definition.
        Stopped: SIGINT or SIGTERM came; the current trial is closed, and resumed by the next start.
        PressftError: corpus, model or store cannot be used; nothing has been started.
        MissingError: the disk is full; the same command resumes the study.
    """
    texts = prompts.load(study.prompts, study.questions)  # fail before anything is started
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
    """Run trials of a study that another process supervises, until there are none left.

    Raises:
        As `run_sweep`.
    """
    with Stopping() as stopping:
        sweep = _open(study, report, locations, start_id)
        with sweep.sync:
            sweep.run_trials(stopping, until)
            sweep.sync.flush()


def _open(study: Study, report: Reporter, locations: Locations, start_id: str = "") -> "Sweep":
    """Load model and text, and open the stores of a study; mistakes are found before it starts."""
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
    """Run one trial as a study of its own; all such trials share the MLflow experiment `runs`.

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


class Paused(Exception):
    """A trial has reached its rung, and is saved."""


class Sweep:
    """One running sweep: its context, ledger, tracker and reporter."""

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
        self.summarized = 0  # trials included in the summary in MLflow
        environment = runs.environment()
        self.environment = digest(environment)
        ledger.describe({f"{ENVIRONMENT}{self.environment}": environment})
        self.stored = reader.read(study.name, locations.storage)
        self.scored: dict[str, Untrained] = {}  # by arm

    def run(self, stopping: Stopping, pool: WorkerPool | None, until: float) -> Outcome:
        """Run all open trials, one after the other or by the pool, and complete the study."""
        if self.ledger.extension:
            self.report.say(f"{self.study.name} is extended: {self.ledger.extension}")
        for trial in self.recover():
            self.report.say(f"trial {trial.number} was left unfinished: its cell is run again")
        context, names = self.context, self.study.arms()
        self.report.plan(
            self.study.name,
            context.tested_tokens(self.study.base) * len(names)
            + self.cost_per_trial() * self.ledger.n_open(),
        )
        trials = self.ledger.trials()
        before = {trial.number for trial in trials if not trial.is_open}
        with self.sync:
            for arm in names:
                self.untrained(arm, self.report.advance)
            if pool:
                pool.run(self.ledger.start_id, self.recover, self.progress_reporter(), stopping)
            else:
                self.run_trials(stopping, until)
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

    def cost_per_trial(self) -> int:
        """The average cost of a trial in scored-token equivalents; halving trains most in part."""
        return round(self.context.cost(self.study.base) * Halving(self.study).trained_share())

    def recover(self, worker: str = "", reason: str = "its process died") -> list[Trial]:
        """Close the trials that dead processes left running, and keep the curves in their
        checkpoints."""
        left = self.ledger.recover(worker, reason)
        for trial in left:
            if "record" in trial.attrs:
                folder = self.context.store.folder(trial.cell) / "checkpoints"
                self.keep_curve(trial, checkpoint.curve(folder))
        return left

    def progress_reporter(self) -> Callable[[], None]:
        """A function that reports the progress of the workers, by the trials that are done and the
        last validation of those running."""
        whole = self.cost_per_trial()

        shown = whole * sum(trial.is_done for trial in self.ledger.trials())

        def look() -> None:
            nonlocal shown
            trials = self.ledger.trials()  # one listing: no trial counts as running and as done
            running = self.ledger.running(trials)
            done = whole * sum(trial.is_done for trial in trials)
            done += sum(whole * trial.tokens // trial.spec.trained_tokens for trial in running)
            now = max(shown, done)  # less if a trial died and starts again
            what = "; ".join(trial.progress for trial in running) or "starting workers"
            self.report.advance(what, now - shown)
            shown = now

        return look

    def run_trials(self, stopping: Stopping, until: float) -> None:
        """Run trials until none is left, including those that other processes may leave."""
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
        """Measure inference cost, let the best models answer, and write what MLflow lacks."""
        with self.ledger.finish_lock:
            done = status.by_arm(self.ledger.trials(), self.context.store)
            chosen = {arm: best for arm in done if (best := arms.choose(done[arm]))}
            specs = [self.study.spec(remove=arm) for arm in self.study.arms()]
            healed = {arm: trials[0].result for arm, trials in chosen.items()}
            texts = prompts.load(self.study.prompts, self.study.questions)
            measure_costs(self.context, specs, self.report.setup)
            answer(self.context, specs, healed, texts, self.report.setup)
            self.write_missing_runs()
        return status.finding(self.study.name, self.locations)

    def write_missing_runs(self) -> None:
        """Write what MLflow lacks of the study, or say that it could not be written."""
        try:
            if left := self.sync.flush():
                raise UnreachableError(f"MLflow has not accepted {left} runs")
            with self.sync.paused():  # matplotlib draws in one thread at a time
                seen = status.look(self.study.name, self.locations)
                sync.study(self.tracker, seen, self.context.store, self.report.say)
                self.summarized = -1
                self.summarize()
        except (UnreachableError, NotFoundError, RejectedError) as error:
            self.report.say(
                f"{error}: the next sweep or `pressft doctor --fix` writes what is missing"
            )

    def summarize(self) -> None:
        """Write the summary of the study if more trials are done than at the last one."""
        n = sum(trial.is_done for trial in self.ledger.trials())
        if n != self.summarized and not self.study.name.startswith(runs.SINGLE):
            summary.write(self.tracker, self.study.name, self.locations)
        self.summarized = n

    def untrained(self, arm: str, advance: Advance = lambda *_: None) -> Untrained:
        """The scores of an arm's cut before training."""
        if arm not in self.scored:
            spec = self.study.spec(remove=arm)
            self.scored[arm] = score_untrained(self.context, spec, advance)
        return self.scored[arm]

    def run_trial(self, trial: Trial, stopping: Stopping) -> None:
        """Run a trial, or reuse an earlier result of its cell (law 8)."""
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
            self.complete(trial, result, reused=known is not None)
        except Stopped:
            with self.ledger.brief_retries():
                self.fail(trial, curve, "stopped by a signal", again=True, interrupted=True)
            raise
        except Paused:
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
                raise MissingError(f"{full}; the same command resumes from here") from error
            refused = isinstance(error, PressftError)
            fault = "refused" if refused else f"{type(error).__name__}: {error}".splitlines()[0]
            self.fail(trial, curve, fault, again=True)
            if refused:
                raise

    def train(self, trial: Trial, curve: list[Point], stopping: Stopping) -> TrialResult:
        """Train and score a trial; its points are added to `curve`, and sent to MLflow.

        Raises:
            Pruned: it is behind its arm.
            Paused: it has reached its rung, and is saved.
            Stopped: a signal came; the current step is finished and saved.
            What `trial.steps` raises.
        """
        spec, pauses, position = trial.spec, False, ""
        rung = self.ledger.next_rung(trial)
        run = runs.of_trial(self.stored, trial, self.context.store)

        def advance(what: str, units: int) -> None:
            self.report.advance(what + position, units)

        with closing(trial_steps(self.context, spec, advance, self.report.say)) as steps:
            with stopping.deferred():  # during training, a signal takes effect after the step
                for step in steps:
                    if step.point:
                        curve.append(step.point)
                        at = f"{step.tokens:,} of {spec.trained_tokens:,} tokens"
                        position = f", loss {step.metrics['train/loss']:.3f} at {at}"
                        self.sync.submit(dataclasses.replace(run, points=tuple(curve)))
                    if step.diverged:
                        continue  # the iterator raises DivergedError
                    self.prune(trial, step)
                    pauses = rung is not None and step.tokens >= rung
                    ends = pauses or bool(stopping.signum)
                    if ends:
                        step.save(kept=1 if pauses else KEPT)  # many trials may be paused
                    if ends or step.number == spec.steps:
                        break
            if pauses:
                raise Paused
            for _ in steps:  # no step is left: this scores the test split, which a signal ends
                pass
        return self.context.store.known(self.context.cell(spec))

    def prune(self, trial: Trial, step: Step) -> None:
        """Store a validation loss in the ledger, and end the trial if it is behind its arm."""
        loss = step.metrics.get("eval/loss")
        if loss is not None and self.ledger.should_prune(trial, step.tokens, loss):
            raise Pruned(f"after {step.tokens:,} tokens its validation loss {loss:.4g} is behind")

    def start(self, trial: Trial, cell: str) -> Trial:
        """Note the record of a trial, so that MLflow shows it: its own if it was paused, that
        of an interrupted trial of the same cell, or a new one. Return the stored trial."""
        study, spec = self.study.name, trial.spec
        self.untrained(spec.remove)  # in a worker, its first trial of an arm scores the cut
        record, started = f"{study}-{trial.number:05d}-{uuid.uuid4().hex[:8]}", now_ms()
        for other in reversed(self.ledger.trials()):
            was_paused = other.number == trial.number
            died = "died_in" in other.attrs or other.attrs.get("interrupted")
            interrupted = other.state == "fail" and died and other.cell == cell
            if (was_paused or interrupted) and "record" in other.attrs:  # it may have died earlier
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
        """Send a trial in its stored state to MLflow, and return it."""
        stored = self.ledger.trial(trial.number)
        self.sync.submit(runs.of_trial(self.stored, stored, self.context.store))
        return stored

    def complete(self, trial: Trial, result: TrialResult, *, reused: bool) -> None:
        """Close a trial that has a result."""
        for point in result.curve if reused else ():
            if "eval/loss" in point.metrics:
                self.ledger.record_loss(trial, point.tokens, point.metrics["eval/loss"])
        score = result.test_score
        self.ledger.note(
            trial, test_loss=score.loss, test_perplexity=score.perplexity, reused=reused
        )
        ours = self.ledger.complete(trial, result.validation.loss)
        self.show(trial)
        self.report.say(
            f"{runs.name(trial.spec)}: test perplexity "
            + tables.number(score.perplexity)
            + (" (known from an earlier run)" if reused else f" in {result.total_s:.0f} s")
            + ("" if ours else "; another process took the trial for dead, and reuses its result")
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
        """Close a trial without a result; its checkpoints are kept if it is tried `again`."""
        self.keep_curve(trial, curve)
        self.ledger.fail(trial, fault, again=again, interrupted=interrupted)
        self.end(trial, fault, resumable=again)

    def keep_curve(self, trial: Trial, curve: Sequence[Point]) -> None:
        """Store the curve of a trial without a result, from which MLflow can be rebuilt."""
        if curve:
            self.context.store.save_curve(trial.cell, str(trial.attrs["record"]), tuple(curve))

    def end(self, trial: Trial, why: str, *, resumable: bool = False) -> None:
        """Report a trial that ended without a result, and delete its checkpoints if nothing will
        resume it."""
        self.show(trial)
        self.report.say(f"{runs.name(trial.spec)}: {why}")
        if not resumable:
            folder = self.context.store.folder(trial.cell) / "checkpoints"
            shutil.rmtree(folder, ignore_errors=True)


def measure_costs(context: Context, arms: Sequence[TrialSpec], progress: Progress) -> None:
    """Measure the inference cost of all cuts in turn, unless all were measured on this machine."""
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
    """Let every cut base and best trained model answer, unless they have before."""
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
    """The study with `best-of-scan(k)` replaced by the best layers of a scan."""
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
    """Ensure that one command at a time runs a study whose storage is a file."""
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
        raise MissingError(
            f"{root}: {error.strerror}; choose a folder that can be written"
        ) from error
    try:
        yield
    finally:
        lock.release()
