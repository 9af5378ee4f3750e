"""The `summary` run of a study in MLflow: note, report, tables, continuations side by side."""

from pressft._files import digest
from pressft._text import plain
from pressft.report import page, status, tables
from pressft.study.locations import Locations
from pressft.study.prompts import Prompts
from pressft.study.reader import Stored
from pressft.tracking import runs
from pressft.tracking.client import Tracker


def write(tracker: Tracker, name: str, locations: Locations) -> None:
    """Write the summary of a stored study in its current state, replacing an earlier one.

    Raises:
        UnreachableError, RejectedError, NotFoundError: from MLflow.
    """
    seen = status.look(name, locations)
    found, finding = seen.found, seen.finding
    experiment = tracker.experiment(name, found.question)
    table = tables.markdown(finding)
    parts = (" ".join(part.split()) for part in found.question.split("\n\n"))
    question = "\n\n".join(map(plain, parts))
    note = f"**{plain(page.sentence(finding))}**\n\n{question}"
    files = {
        "report.html": page.page(name, seen, locations),
        "arms.md": table,
        "arms.csv": tables.as_csv(finding),
    }
    shown = runs.answers_by_arm(finding, Prompts.of(found.prompts))
    tracker.describe(experiment, note)
    run_id = tracker.summary(experiment, name, f"{note}\n\n{table}", files, shown)
    tracker.tag(run_id, {runs.VERSION_TAG: version(found)})  # last: all of it is there


def version(found: Stored) -> str:
    """16 hex digits that name the trials that a summary shows: equal while they are the same."""
    return digest([runs.state(trial) for trial in found.trials if trial.has_ended])
