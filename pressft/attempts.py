"""One trial of a study, from its start to its end: trained, or answered from an earlier result,
kept in the ledger, told to MLflow."""

import dataclasses
import shutil
import uuid
from collections.abc import Sequence
from contextlib import closing, suppress

from pressft import disk
from pressft._files import digest
from pressft._signals import Stopped, Stopping
from pressft.context import Context
from pressft.errors import MissingError, PressftError
from pressft.progress import Reporter
from pressft.report import tables
from pressft.study import reader
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.reader import ENVIRONMENT
from pressft.study.results import Point, TrialResult, Untrained
from pressft.study.trials import Trial, now_ms
from pressft.tracking import runs
from pressft.tracking.sync import Sync
from pressft.training.checkpoint import KEPT
from pressft.training.loop import Step
from pressft.trial import Advance, DivergedError, untrained, untrained_key
from pressft.trial import steps as trial_steps


class Pruned(Exception):
    """A trial is behind its arm, and ends early."""


class Rested(Exception):
    """A trial has come as far as it was to, and is saved."""


class Attempts:
    """The trials of one process, one after the other."""

    def __init__(
        self,
        context: Context,
        ledger: Ledger,
        sync: Sync,
        report: Reporter,
        locations: Locations,
    ) -> None:
        """Of one context and ledger."""
        self.context, self.ledger, self.sync = context, ledger, sync
        self.report, self.locations = report, locations
        environment = runs.environment()
        self.environment = digest(environment)
        ledger.describe({f"{ENVIRONMENT}{self.environment}": environment})
        self.found = reader.read(ledger.design.name, locations.storage)
        self._untrained: dict[str, Untrained] = {}

    def untrained(self, arm: str, advance: Advance = lambda *_: None) -> Untrained:
        """What an arm's cut scores before training."""
        if arm not in self._untrained:
            spec = self.ledger.design.spec(remove=arm)
            self._untrained[arm] = untrained(self.context, spec, advance)
        return self._untrained[arm]

    def one(self, trial: Trial, stopping: Stopping) -> None:
        """Run a trial, or answer it from an earlier result (law 8)."""
        spec = trial.spec
        cell = self.context.cell(spec)
        trial = self.start(trial, cell)
        curve: list[Point] = []

        try:
            with self.context.store.alone(cell):
                known = self.context.store.trial(cell)
                if known:
                    self.report.advance(f"{spec.remove}: known", self.context.cost(spec))
                result = known or self.train(trial, curve, stopping)
            self.keep(trial, result, reused=known is not None)
        except Stopped:
            with self.ledger.hurry():
                self.fail(trial, curve, "stopped by a signal", again=True, interrupted=True)
            raise
        except Rested:
            self.keep_curve(trial, curve)
            self.ledger.rest(trial)
            self.show(trial)
        except Pruned as reason:
            self.keep_curve(trial, curve)
            self.ledger.prune(trial, str(reason))
            self.end(trial, str(reason))
        except DivergedError as error:
            self.fail(trial, curve, str(error), again=False)
        except Exception as error:
            if full := disk.trouble(self.locations.root):
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
        until, run = self.ledger.until(trial), runs.of_trial(self.found, trial, self.context.store)

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
        study, spec = self.ledger.design.name, trial.spec
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
        self.sync.show(runs.of_trial(self.found, stored, self.context.store))
        return stored

    def keep(self, trial: Trial, result: TrialResult, *, reused: bool) -> None:
        """Close a trial that has a result."""
        for point in result.curve if reused else ():
            if "eval/loss" in point.metrics:
                self.ledger.tell(trial, point.tokens, point.metrics["eval/loss"])
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
