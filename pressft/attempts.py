"""One trial of a study, from its start to its end: trained, or answered from an earlier result,
kept in the ledger, told to MLflow."""

import json
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from pressft import disk
from pressft._signals import Stopped, Stopping
from pressft.context import Context
from pressft.errors import MissingError, PressftError
from pressft.progress import Reporter
from pressft.report import tables
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.results import TrialResult, Untrained
from pressft.study.trials import Trial
from pressft.tracking import projection, runs
from pressft.tracking.display import Display
from pressft.tracking.outbox import Record
from pressft.training.teller import DivergedError, Rested, Safety
from pressft.trial import Advance, run_trial, untrained, untrained_key


class Pruned(Exception):
    """A trial is behind its arm, and ends early."""


class Attempts:
    """The trials of one process, one after the other."""

    def __init__(
        self,
        context: Context,
        ledger: Ledger,
        display: Display,
        report: Reporter,
        locations: Locations,
    ) -> None:
        """Of one context and ledger."""
        self.context, self.ledger, self.display = context, ledger, display
        self.report, self.locations = report, locations
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
        record = self.start(trial, cell)

        try:
            with self.context.store.alone(cell):
                known = self.context.store.trial(cell)
                if known:
                    self.report.advance(f"{spec.remove}: known", self.context.cost(spec))
                result = known or self.train(trial, record, stopping)
            self.keep(trial, record, result, reused=known is not None)
        except Stopped:
            with self.ledger.hurry():
                self.close(trial, record, "stopped by a signal", "KILLED", again=True)
            raise
        except Rested:
            self.ledger.rest(trial)
            record.end("SCHEDULED")  # it goes on, or is ended when its arm has come so far
        except Pruned as reason:
            self.ledger.prune(trial, str(reason))
            self.end(trial, record, "KILLED", pruned=str(reason))
        except DivergedError as error:
            self.close(trial, record, str(error), "FAILED", again=False)
        except Exception as error:
            if full := disk.trouble(self.locations.root):
                with suppress(Exception):  # the storage may be on the same disk
                    self.close(trial, record, full, "KILLED", again=True)
                raise MissingError(f"{full}; the same command goes on from here") from error
            refused = isinstance(error, PressftError)
            fault = "refused" if refused else f"{type(error).__name__}: {error}".splitlines()[0]
            self.close(trial, record, fault, "FAILED", again=True)
            if refused:
                raise

    def train(self, trial: Trial, record: Record, stopping: Stopping) -> TrialResult:
        """The result of a trial, its points recorded as they come.

        Raises:
            Pruned, and what `trial.run_trial` raises.
        """
        spec, far = trial.spec, ""

        def advance(what: str, units: int) -> None:
            self.report.advance(what + far, units)

        def on_point(tokens: int, metrics: Mapping[str, float]) -> None:
            nonlocal far
            record.points(tokens, metrics)
            loss = metrics.get("eval/loss")
            at = metrics.get("train/loss", loss)
            far = f", loss {at:.3f} at {tokens:,} of {spec.trained_tokens:,} tokens"
            if loss is not None and self.ledger.should_prune(trial, tokens, loss):
                raise Pruned(f"after {tokens:,} tokens its validation loss {loss:.4g} is behind")

        safety = partial(
            Safety, stopping=stopping, say=self.report.say, until=self.ledger.until(trial)
        )
        return run_trial(self.context, spec, on_point, advance, safety)

    def start(self, trial: Trial, cell: str) -> Record:
        """The trial's record: its own where it has rested, that of a trial of the same cell that
        was cut short, or a new one."""
        spec, corpus, study = trial.spec, self.context.text.corpus, self.ledger.design.name
        cut = self.untrained(spec.remove)  # a worker learns of an arm by its first trial
        name = f"{study}-{trial.number:05d}-{uuid.uuid4().hex[:8]}"
        for other in reversed(self.ledger.trials()):
            rested = other.number == trial.number
            died = "died_in" in other.attrs or other.attrs.get("interrupted")
            cut_short = other.state == "fail" and died and other.cell == cell
            if (rested or cut_short) and "record" in other.attrs:  # one may die before it has one
                name = str(other.attrs["record"])
                break
        key = untrained_key(self.context, spec)
        self.ledger.note(trial, cell=cell, record=name, untrained=key)
        tags = runs.tags(study, spec.remove, trial.number, cell, corpus.fingerprint)
        record = self.display.record(name)
        params = runs.params(spec, cut)
        data = runs.datasets(corpus, spec)
        tags["git_commit"] = runs.commit()
        record.begin(self.display.experiment, runs.name(spec), params, tags, data)
        return record

    def keep(self, trial: Trial, record: Record, result: TrialResult, *, reused: bool) -> None:
        """Show a result, and close the trial in the ledger."""
        record.texts({"environment.json": json.dumps(runs.environment(), indent=2)})
        record.tag(reused=str(reused).lower())
        cut = self.untrained(trial.spec.remove)
        projection.show_trial(record, result, cut, self.context.store)
        for tokens, metrics in result.curve if reused else ():
            if "eval/loss" in metrics:
                self.ledger.tell(trial, tokens, metrics["eval/loss"])
        self.ledger.note(trial, test_perplexity=result.test_score.perplexity, reused=reused)
        ours = self.ledger.complete(trial, result.validation.loss)
        self.report.say(
            f"{runs.name(trial.spec)}: test perplexity "
            + tables.number(result.test_score.perplexity)
            + (" (known from an earlier run)" if reused else f" in {result.total_s:.0f} s")
            + ("" if ours else "; others took the trial for dead, and will find its result")
        )

    def close(self, trial: Trial, record: Record, fault: str, status: str, *, again: bool) -> None:
        """End a trial that has no result, truthfully in both views."""
        interrupted = status == "KILLED"
        self.ledger.fail(trial, fault, again=again, interrupted=interrupted)
        self.end(trial, record, status, fault=fault, resumable=again)

    def end(
        self,
        trial: Trial,
        record: Record,
        status: str,
        *,
        resumable: bool = False,
        **tags: str,
    ) -> None:
        """The run of a trial without a result; the files of one that never goes on are dropped."""
        record.tag(**tags)
        record.end(status)
        self.report.say(f"{runs.name(trial.spec)}: {', '.join(tags.values())}")
        if not resumable:
            self.drop_checkpoints(self.context.cell(trial.spec))

    def end_at_rest(self, trial: Trial) -> None:
        """The run of a trial that was ended while it rested; its files are dropped."""
        name, why = str(trial.attrs["record"]), str(trial.attrs["pruned"])
        self.display.killed(name, pruned=why)
        self.report.say(f"{runs.name(trial.spec)}: {why}")
        self.drop_checkpoints(trial.cell)

    def drop_checkpoints(self, cell: str) -> None:
        """Of a trial that never goes on."""
        shutil.rmtree(self.context.store.folder(cell) / "checkpoints", ignore_errors=True)
