"""One trial of a study, from its ticket to its end: trained, or answered from an earlier result,
kept in the ledger, told to MLflow."""

import json
import shutil
import uuid
from contextlib import closing, suppress

from pressft import disk
from pressft import trial as trials
from pressft._signals import Stopped, Stopping
from pressft.context import Context
from pressft.errors import MissingError, PressftError
from pressft.progress import Reporter
from pressft.report import tables
from pressft.study.ledger import Ledger, Ticket
from pressft.study.locations import Locations
from pressft.study.results import TrialResult, Untrained
from pressft.study.trials import Row
from pressft.tracking import projection, runs
from pressft.tracking.display import Display
from pressft.tracking.outbox import Record
from pressft.training.checkpoint import KEPT
from pressft.training.loop import Step
from pressft.trial import Advance, DivergedError


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
        display: Display,
        report: Reporter,
        locations: Locations,
    ) -> None:
        """On one bench, for one ledger."""
        self.context, self.ledger, self.display = context, ledger, display
        self.report, self.locations = report, locations
        self._untrained: dict[str, Untrained] = {}

    def untrained(self, arm: str, advance: Advance = lambda *_: None) -> Untrained:
        """What an arm's cut scores before training."""
        if arm not in self._untrained:
            spec = self.ledger.design.spec(remove=arm)
            self._untrained[arm] = trials.untrained(self.context, spec, advance)
        return self._untrained[arm]

    def one(self, ticket: Ticket, stopping: Stopping) -> None:
        """Run a ticket, or answer it from an earlier result (law 8)."""
        spec = ticket.spec
        cell = self.context.cell(spec)
        record = self.start(ticket, cell)

        try:
            with self.context.store.alone(cell):
                known = self.context.store.trial(cell)
                if known:
                    self.report.advance(f"{spec.remove}: known", self.context.cost(spec))
                result = known or self.train(ticket, record, stopping)
            self.keep(ticket, record, result, reused=known is not None)
        except Stopped:
            with self.ledger.hurry():
                self.close(ticket, record, "stopped by a signal", "KILLED", again=True)
            raise
        except Rested:
            self.ledger.rest(ticket)
            record.end("SCHEDULED")  # it goes on, or is ended when its arm has come so far
        except Pruned as reason:
            self.ledger.prune(ticket, str(reason))
            self.end(ticket, record, "KILLED", pruned=str(reason))
        except DivergedError as error:
            self.close(ticket, record, str(error), "FAILED", again=False)
        except Exception as error:
            if full := disk.trouble(self.locations.root):
                with suppress(Exception):  # the storage may be on the same disk
                    self.close(ticket, record, full, "KILLED", again=True)
                raise MissingError(f"{full}; the same command goes on from here") from error
            refused = isinstance(error, PressftError)
            fault = "refused" if refused else f"{type(error).__name__}: {error}".splitlines()[0]
            self.close(ticket, record, fault, "FAILED", again=True)
            if refused:
                raise

    def train(self, ticket: Ticket, record: Record, stopping: Stopping) -> TrialResult:
        """The result of a ticket, its points recorded as they come.

        Raises:
            Pruned: it is behind its arm.
            Rested: it has come as far as it was to, and is saved.
            Stopped: a signal; the step at hand is finished and saved.
            What `trial.steps` raises.
        """
        spec, rests, far = ticket.spec, False, ""

        def advance(what: str, units: int) -> None:
            self.report.advance(what + far, units)

        with closing(trials.steps(self.context, spec, advance, self.report.say)) as steps:
            with stopping.patience():  # until training is over, a signal waits for the step's end
                for step in steps:
                    if step.metrics:
                        record.points(step.tokens, step.metrics)
                        at = f"{step.tokens:,} of {spec.trained_tokens:,} tokens"
                        far = f", loss {step.metrics['train/loss']:.3f} at {at}"
                    if step.diverged:
                        continue  # the trial ends with that
                    self.prune(ticket, step)
                    rests = ticket.until is not None and step.tokens >= ticket.until
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

    def prune(self, ticket: Ticket, step: Step) -> None:
        """Keep a validation loss in the ledger, and end a trial that is behind its arm."""
        loss = step.metrics.get("eval/loss")
        if loss is not None and self.ledger.should_prune(ticket, step.tokens, loss):
            raise Pruned(f"after {step.tokens:,} tokens its validation loss {loss:.4g} is behind")

    def start(self, ticket: Ticket, cell: str) -> Record:
        """The trial's record: its own where it has rested, that of a trial of the same cell that
        was cut short, or a new one."""
        spec, corpus, study = ticket.spec, self.context.text.corpus, self.ledger.design.name
        cut = self.untrained(spec.remove)  # a worker learns of an arm by its first trial
        name = f"{study}-{ticket.number:05d}-{uuid.uuid4().hex[:8]}"
        for row in reversed(self.ledger.rows()):
            rested = row.number == ticket.number
            died = "died_in" in row.attrs or row.attrs.get("interrupted")
            cut_short = row.state == "fail" and died and row.attrs.get("cell") == cell
            if (rested or cut_short) and "record" in row.attrs:  # one may die before it has one
                name = str(row.attrs["record"])
                break
        key = trials.untrained_key(self.context, spec)
        self.ledger.note(ticket, cell=cell, record=name, untrained=key)
        tags = runs.tags(study, spec.remove, ticket.number, cell, corpus.fingerprint)
        record = self.display.record(name)
        params = runs.params(spec, cut)
        data = runs.datasets(corpus, spec)
        tags["git_commit"] = runs.commit()
        record.begin(self.display.experiment, runs.name(spec), params, tags, data)
        return record

    def keep(self, ticket: Ticket, record: Record, result: TrialResult, *, reused: bool) -> None:
        """Show a result, and close the trial in the ledger."""
        record.texts({"environment.json": json.dumps(runs.environment(), indent=2)})
        record.tag(reused=str(reused).lower())
        cut = self.untrained(ticket.spec.remove)
        projection.show_trial(record, result, cut, self.context.store)
        for tokens, metrics in result.curve if reused else ():
            if "eval/loss" in metrics:
                self.ledger.tell(ticket, tokens, metrics["eval/loss"])
        self.ledger.note(ticket, test_perplexity=result.test_score.perplexity, reused=reused)
        ours = self.ledger.complete(ticket, result.validation.loss)
        self.report.say(
            f"{runs.name(ticket.spec)}: test perplexity "
            + tables.number(result.test_score.perplexity)
            + (" (known from an earlier run)" if reused else f" in {result.total_s:.0f} s")
            + ("" if ours else "; others took the trial for dead, and will find its result")
        )

    def close(
        self, ticket: Ticket, record: Record, fault: str, status: str, *, again: bool
    ) -> None:
        """End a trial that has no result, truthfully in both views."""
        interrupted = status == "KILLED"
        self.ledger.fail(ticket, fault, again=again, interrupted=interrupted)
        self.end(ticket, record, status, fault=fault, resumable=again)

    def end(
        self,
        ticket: Ticket,
        record: Record,
        status: str,
        *,
        resumable: bool = False,
        **tags: str,
    ) -> None:
        """The run of a trial without a result; the files of one that never goes on are dropped."""
        record.tag(**tags)
        record.end(status)
        self.report.say(f"{runs.name(ticket.spec)}: {', '.join(tags.values())}")
        if not resumable:
            self.drop_checkpoints(self.context.cell(ticket.spec))

    def end_at_rest(self, row: Row) -> None:
        """The run of a trial that was ended while it rested; its files are dropped."""
        name, why = str(row.attrs["record"]), str(row.attrs["pruned"])
        self.display.killed(name, pruned=why)
        self.report.say(f"{runs.name(self.ledger.design.spec(**row.params))}: {why}")
        self.drop_checkpoints(str(row.attrs["cell"]))

    def drop_checkpoints(self, cell: str) -> None:
        """Of a trial that never goes on."""
        shutil.rmtree(self.context.store.folder(cell) / "checkpoints", ignore_errors=True)
