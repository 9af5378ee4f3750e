"""What MLflow is told of a sweep: records of its trials, sent beside the work, and its summary."""

from collections.abc import Mapping, Sequence

from pressft.progress import Reporter
from pressft.report import finding
from pressft.report.finding import Done
from pressft.score import recovery, total
from pressft.spec import WHOLE
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.results import Untrained
from pressft.tracking import projection
from pressft.tracking.client import AwayError, GoneError, RejectedError, Tracker
from pressft.tracking.outbox import Record
from pressft.tracking.sender import PATIENCE_S, Sender


class Display:
    """The MLflow view of one running study; within its `with` block the sender works."""

    def __init__(self, ledger: Ledger, locations: Locations, report: Reporter, shared: str) -> None:
        """`shared` names the experiment where it is not the study's own.

        Raises:
            MissingError: the local store cannot be opened.
        """
        self.ledger, self.locations, self.report, self._shared = ledger, locations, report, shared
        study = ledger.design
        self.experiment = {"name": shared or study.name, "question": study.question}
        self._tracker = Tracker(locations.root, locations.tracking_uri)
        self._sender = Sender(self._tracker, locations.outbox, report.say, self._summarize)
        self._written: set[str] = set()  # names of records that we wrote to
        self._shown = 0  # trials that the summary knows

    def __enter__(self) -> "Display":
        """Send what is written from here."""
        self._sender.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; what is not sent waits."""
        self._sender.__exit__()

    def record(self, name: str) -> Record:
        """The record of a trial, to be written to."""
        self._written.add(name)
        return Record(self.locations.outbox, name)

    def killed(self, name: str, **tags: str) -> None:
        """The run of a trial that nobody works on: its process died, or it was ended at rest."""
        self.record(name).amend(self.experiment, "KILLED", tags=tags)

    def recoveries(
        self,
        untrained: Mapping[str, Untrained],
        done: Mapping[str, list[Done]],
        whole: Sequence[Done],
    ) -> None:
        """Show what each cut run healed, measured against the best trained whole model."""
        names = {row.number: row.attrs.get("record") for row in self.ledger.trials()}
        best = finding.tested(whole)
        for arm, items in done.items():
            before = total(untrained[arm].test)
            for trial in items if arm != WHOLE else ():
                share = recovery(before, trial.result.test_score, best)
                if share is not None and (name := names[trial.number]):
                    healed = {"test/recovery": share}
                    record = self.record(name)
                    record.amend(self.experiment, "FINISHED", trial.result.tokens, healed)

    def flush(self, patience_s: float = PATIENCE_S) -> set[str]:
        """Send what we wrote now, for so many seconds at most; what still waits."""
        return self._sender.flush(self._written, patience_s)

    def complete(self) -> None:
        """Send everything and the summary, or say where it waits."""
        try:
            if left := self.flush():
                raise AwayError(f"MLflow has not taken {len(left)} runs")
            self._shown = -1
            self._summarize()
        except (AwayError, GoneError, RejectedError) as error:
            self.report.say(
                f"{error}: what it is to show waits in {self.locations.outbox}, and is sent by "
                "the next start or by `pressft doctor --fix`"
            )

    def _summarize(self) -> None:
        """Show the study as far as it is, where there is more than was shown before."""
        n = sum(row.is_done for row in self.ledger.trials())
        if n != self._shown and not self._shared:
            projection.show_study(self._tracker, self.ledger.design.name, self.locations)
        self._shown = n
