"""What MLflow shows of a finished trial and of a study, written from results alone.

The sweep writes it as trials end, the doctor where it is missing; both write the same.
"""

from pressft import report, runs, status, tables
from pressft.arms import Finding
from pressft.material import Material
from pressft.results import Store, TrialResult, Untrained
from pressft.status import Stores
from pressft.tracking import Curve, Tracker


def show_trial(
    tracker: Tracker, curve: Curve, result: TrialResult, cut: Untrained, store: Store
) -> None:
    """All of a finished trial that its run does not have yet: points, scores, files; close it."""
    for tokens, metrics in result.curve:
        curve.log(tokens, metrics)
    curve.log(result.tokens, runs.test_metrics(result, cut))
    tracker.files(curve.run_id, store.folder(result.cell) / "adapter")
    columns = {"untrained": cut.samples, "trained": result.samples}
    tracker.texts(curve.run_id, {"samples.md": runs.samples(columns)})
    tracker.finish(curve.run_id, "FINISHED")


def show_study(tracker: Tracker, experiment: str, name: str, stores: Stores) -> Finding:
    """The study's `summary` run: note, report, tables, texts side by side; its finding."""
    found = status.find(name, stores)
    finding = status.read(found, stores)
    table = tables.markdown(finding)
    files = {
        "report.html": report.page(name, found, finding, stores),
        "arms.md": table,
        "arms.csv": tables.as_csv(finding),
    }
    shown = runs.readings(finding, Material.of(found.material))
    tracker.summary(experiment, name, f"{found.question}\n\n{table}", files, shown)
    return finding
