"""A study's charts: its finding and its trials, one look an arm on the whole page."""

import math
import statistics
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pressft.report import charts
from pressft.report import finding as arms
from pressft.report.charts import MARKS, Axis, Level, Point, Series
from pressft.report.finding import Arm, Done, Finding
from pressft.report.tables import interval, number, short
from pressft.spec import WHOLE
from pressft.study import scans
from pressft.study.reader import Stored
from pressft.study.trials import Trial

N_COLOURS = 7  # arms with a colour of their own; the others are grey
TOP = 4  # times the median untrained perplexity: above, a layer is an arrow with a number
FAR = 1.0  # nats a token above the best: it would press all others flat
MAX_FAINT = 60  # curves behind the best ones
NARROW = 12  # removed layers that a chart of half the page has room for
CURVES = {"train/loss": "Training loss", "eval/loss": "Validation loss"}


@dataclass(frozen=True, slots=True)
class Style:
    """How an arm looks on the whole page. What is drawn last stands in front: by class backwards,
    `other` first and the whole model last."""

    css: str
    mark: str
    label: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart and what it shows; `narrow` is the same for a phone, where `svg` is twice as wide."""

    caption: str
    svg: str
    narrow: str = ""


def styles(finding: Finding) -> dict[str, Style]:
    """The whole model and the best cuts have colours of their own, by rank of validation."""
    rows = list(finding.arms)
    ranked = sorted(
        (row for row in rows if row.arm != WHOLE),
        key=lambda row: row.trained.validation if row.trained else float("inf"),
    )
    few = len(ranked) < N_COLOURS
    coloured = [row for row in rows if row.arm != WHOLE] if few else ranked[: N_COLOURS - 1]
    place = {row.arm: index for index, row in enumerate(coloured, 1)}
    found = {}
    for row in rows:
        index = 0 if row.arm == WHOLE else place.get(row.arm, N_COLOURS)
        css = f"a{index}" if index < N_COLOURS else "other"
        mark = MARKS[index] if index < N_COLOURS else "circle"
        found[row.arm] = Style(css, mark, row.label)
    return found


def learning(
    finding: Finding,
    done: Mapping[str, Sequence[Done]],
    rows: Sequence[Trial],
    looks: Mapping[str, Style],
) -> Iterator[Figure]:
    """Loss of training and validation by tokens, whole and reduced models overlaid."""
    near, far = _apart(finding, rows)
    left_out = f" Left out, far above: {', '.join(far)}." if far else ""
    for metric, title in CURVES.items():
        early = _early(rows, near, looks) if metric == "eval/loss" else ()
        series = [*early, *_curves({a: done[a] for a in done if a in near}, looks, metric)]
        svg = charts.plot(series, Axis("tokens seen"), Axis("nats a token"), title)
        caption = f"{title} by tokens: the best trial of each arm strong, others faint.{left_out}"
        yield Figure(caption, svg)


def _apart(finding: Finding, rows: Sequence[Trial]) -> tuple[set[str], list[str]]:
    """Arms whose curves fit one picture, and labels of those far above: at their end, or, where
    all trials of an arm ended early, at their first validation."""
    ends = {arm.arm: arm.trained.validation for arm in finding.arms if arm.trained}
    starts: dict[str, float] = {}
    for row in rows:
        if row.losses:
            starts[row.arm] = min(starts.get(row.arm, math.inf), row.losses[0][1])
    near: set[str] = set()
    for losses in (starts, ends):
        limit = min(losses.values(), default=0.0) + FAR
        near = {arm for arm in near if arm not in losses}
        near |= {arm for arm, loss in losses.items() if loss <= limit}
    shown = starts.keys() | ends.keys()
    return near, [arm.label for arm in finding.arms if arm.arm in shown - near]


def _early(
    rows: Sequence[Trial], near: Container[str], looks: Mapping[str, Style]
) -> Iterator[Series]:
    """Validation of the trials that ended early, as far as it went."""
    early = [row for row in rows if row.losses and row.state != "complete" and row.arm in near]
    for row in early[:MAX_FAINT]:
        points = tuple(Point(tokens, loss, "") for tokens, loss in row.losses)
        style = looks[row.arm]
        mark = "" if points[1:] else style.mark  # one point makes no line
        yield Series(f"{style.css} faint", points, line=True, mark=mark, hollow=True)


def _curves(
    done: Mapping[str, Sequence[Done]], looks: Mapping[str, Style], metric: str
) -> Iterator[Series]:
    best = {arm: arms.choose(trials)[:1] for arm, trials in done.items()}
    rest = [(a, t) for a, trials in done.items() for t in trials if t not in best[a]]
    for arm, trial in rest[:MAX_FAINT]:
        points = [Point(x, m[metric], "") for x, m, _ in trial.result.curve if metric in m]
        yield Series(f"{looks[arm].css} faint", tuple(points), line=True)
    for arm, trials in sorted(best.items(), key=lambda item: looks[item[0]].css, reverse=True):
        style = looks[arm]
        for trial in trials:
            points = [
                Point(x, m[metric], f"{style.label}: {m[metric]:.3f} at {x:,} tokens")
                for x, m, _ in trial.result.curve
                if metric in m
            ]
            marked = style.mark if len(points) <= 12 else ""
            yield Series(style.css, tuple(points), line=True, mark=marked)


def depth(finding: Finding, found: Stored, looks: Mapping[str, Style], root: Path) -> Figure:
    """Perplexity over the removed layer: untrained, healed, and as a scan foretold."""
    single = [arm for arm in finding.arms if len(arm.parts) == 1 and isinstance(arm.parts[0], int)]
    series = []
    scan = scans.find(root, found.weights, found.corpus.split("+")[0])
    if scan:
        points = [Point(int(cut.remove), cut.score.perplexity, "") for cut in scan.kind("layers")]
        series.append(Series("scan", tuple(points), line=True))
    for arm in single:
        series += _layer(arm, looks[arm.arm])
    caption = "Test perplexity by removed layer: hollow untrained, filled trained with its interval"
    caption += "; dashed the whole model"
    caption += "; dotted the scan of validation text." if scan else "."
    if not single:
        return Figure(caption, "")
    top = TOP * statistics.median(arm.untrained.perplexity for arm in single)
    axes = Axis("removed layer", whole=True), Axis("perplexity", log=True, top=top)
    narrow = charts.plot(series, *axes, "Perplexity by removed layer", _levels(finding))
    if len({point.x for item in series for point in item.points}) <= NARROW:
        return Figure(caption, narrow)
    wide = charts.plot(series, *axes, "Perplexity by removed layer", _levels(finding), wide=True)
    return Figure(caption, wide, narrow)


def _layer(arm: Arm, style: Style) -> Iterator[Series]:
    """A removed layer, untrained and, where it is, trained."""
    layer, before = float(arm.parts[0]), arm.untrained.perplexity
    tip = f"{style.label}, untrained: {number(before)}"
    yield Series(style.css, (Point(layer, before, tip),), mark=style.mark, hollow=True)
    if after := arm.trained:
        value, ends = after.score.perplexity, after.perplexity.interval
        tip = f"{style.label}, trained: {number(value)} {interval(after.perplexity)}"
        point = Point(layer, value, tip, ends.low, ends.high)
        yield Series(style.css, (point,), mark=style.mark)


def _levels(finding: Finding) -> list[Level]:
    """Of the whole model."""
    whole = next((arm for arm in finding.arms if arm.arm == WHOLE), None)
    if not whole:
        return []
    levels = [Level(whole.untrained.perplexity, "untrained")]
    return levels + ([Level(whole.trained.score.perplexity, "trained")] if whole.trained else [])


def settings(found: Stored, looks: Mapping[str, Style]) -> Iterator[Figure]:
    """Validation loss against each setting that was varied."""
    early = any(row.state == "pruned" for row in found.trials)
    note = "; hollow: ended early, at its last loss." if early else "."
    for name in found.varied:
        caption = f"Validation loss against {name.replace('_', ' ')}, every trial{note}"
        yield Figure(caption, _setting(name, found.trials, looks))


def _setting(name: str, rows: Sequence[Trial], looks: Mapping[str, Style]) -> str:
    """Every trial with a loss at its value of a setting."""
    series = []
    values: list[float] = []
    for row in rows:
        value = row.params.get(name)
        if row.value is None or not isinstance(value, int | float) or row.arm not in looks:
            continue
        values.append(float(value))
        style, early = looks[row.arm], row.state == "pruned"
        tip = f"{style.label}, {name} {value:g}: {row.value:.3f} nats a token"
        point = Point(float(value), row.value, f"{tip}, ended early" if early else tip)
        series.append(Series(style.css, (point,), mark=style.mark, hollow=early))
    log = bool(values) and min(values) > 0 and max(values) > 3 * min(values)
    ticks = tuple(sorted(set(values))) if len(set(values)) <= charts.MAX_TICKS else ()
    axis = Axis(name.replace("_", " "), log, ticks)
    return charts.plot(series, axis, Axis("validation loss"), f"Validation loss against {name}")


def trade_offs(finding: Finding, looks: Mapping[str, Style]) -> Iterator[Figure]:
    """Perplexity against size and against speed, with the arms that no other one beats in both."""
    trained = [(arm, arm.trained.score.perplexity) for arm in finding.arms if arm.trained]
    sizes = [
        (
            arm,
            Point(
                arm.parameters / 1e6,
                perplexity,
                f"{arm.label}: {short(arm.parameters)} parameters, {number(perplexity)}",
            ),
        )
        for arm, perplexity in trained
    ]
    speeds = [
        (
            arm,
            Point(
                arm.cost.tokens_per_second,
                perplexity,
                f"{arm.label}: {arm.cost.tokens_per_second:.1f} tokens/s, {number(perplexity)}",
            ),
        )
        for arm, perplexity in trained
        if arm.cost
    ]
    note = "the line joins the arms that no other one beats in both."
    if len({point.x for _, point in sizes}) > 1:
        svg = _trade_off(sizes, looks, "parameters, millions", sign=1)
        yield Figure(f"Test perplexity, trained, against the parameters that are left; {note}", svg)
    if speeds:
        svg = _trade_off(speeds, looks, "generated tokens a second", sign=-1)
        yield Figure(f"Test perplexity, trained, against the speed of generation; {note}", svg)


def _trade_off(
    placed: Sequence[tuple[Arm, Point]], looks: Mapping[str, Style], label: str, *, sign: int
) -> str:
    """Perplexity against a cost, of which less is better (sign 1), or more (-1)."""
    best = front([point for _, point in placed], sign=sign)
    series = [Series("front", tuple(best), line=True)]
    series += [
        Series(looks[arm.arm].css, (point,), mark=looks[arm.arm].mark)
        for arm, point in sorted(placed, key=lambda item: looks[item[0].arm].css, reverse=True)
    ]
    axes = Axis(label), Axis("perplexity", log=True)
    return charts.plot(series, *axes, f"Test perplexity against {label}")


def front(points: Sequence[Point], *, sign: int) -> list[Point]:
    """The points that no other one beats in both: y is better when low, x when low (sign 1) or
    high (-1)."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (sign * p.x, p.y)):
        if not best or point.y < best[-1].y:
            best.append(point)
    return best
