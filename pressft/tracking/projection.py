"""What MLflow shows of a finished trial and of a study, written from results alone.

The sweep writes it as trials end, the doctor where it is missing; both write the same.
"""

from pressft._text import plain
from pressft.report import page, status, tables
from pressft.study.locations import Locations
from pressft.study.prompts import Prompts
from pressft.study.results import Store, TrialResult, Untrained
from pressft.tracking import runs
from pressft.tracking.client import NOTE, Tracker
from pressft.tracking.outbox import Record


def show_trial(record: Record, result: TrialResult, cut: Untrained, store: Store) -> None:
    """All of a finished trial that its record does not have yet: points, scores, files; end it."""
    for tokens, metrics in result.curve:
        record.points(tokens, metrics)
    record.points(result.tokens, runs.test_metrics(result, cut))
    record.files(store.folder(result.cell) / "adapter")
    columns = {"untrained": cut.samples, "trained": result.samples}
    record.texts({"samples.md": runs.samples(columns)})
    record.tag(**{NOTE: runs.note(result, cut)})
    record.end("FINISHED")


def show_study(tracker: Tracker, name: str, locations: Locations) -> None:
    """The study's `summary` run: note, report, tables, texts side by side.

    Raises:
        AwayError, RejectedError, GoneError: as MLflow answers.
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
    tracker.summary(experiment, name, f"{note}\n\n{table}", files, shown)
