"""The figures of a study's report as data: what is plotted on which axes, and its caption.

An arm has one style, a colour and a mark, in all of them; drawing them is left to `drawing`.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pressft.report import finding as arms
from pressft.report.finding import Arm, Finding
from pressft.report.status import Look
from pressft.report.tables import interval, number
from pressft.spec import WHOLE
from pressft.study import scans
from pressft.study.trials import Trial

N_STYLES = 7  # the whole model and the best six arms; the others are grey
TOP = 4  # times the median untrained perplexity: above, a layer is an arrow with a number
FAR = 1.0  # nats per token above the best: it would press all others flat
MAX_FAINT = 60  # curves behind the best ones
MAX_MARKED = 12  # points of a curve that has marks
MAX_TICKS = 6  # values of a setting that are all labelled
NARROW = 12  # removed layers that a figure of half the page has space for
CURVES = {"train/loss": "Training loss", "eval/loss": "Validation loss"}
PARETO = "The line joins the arms that no other arm beats in both."


@dataclass(frozen=True, slots=True)
class Style:
    """How an arm looks: `name` is `a0` (whole model) to `a6`, or `other`, `scan`, `front`."""

    name: str
    label: str

    @property
    def entry(self) -> str:
        """What the legend says of it."""
        return "all others" if self.name == "other" else self.label


@dataclass(frozen=True, slots=True)
class Point:
    """A place, its hover text, and the ends of its 95% interval where it has one."""

    x: float
    y: float
    text: str = ""
    ends: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one style, joined by a line, marked, or both; marks are filled unless `hollow`."""

    style: Style
    points: Sequence[Point]
    line: bool = False
    marks: bool = True
    hollow: bool = False
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """A label and a scale; `ticks` are chosen unless given. What lies above `top` is an arrow at
    the upper edge, with its value."""

    label: str
    log: bool = False
    ticks: Sequence[float] = ()
    top: float = math.inf

    def fits(self, value: float) -> bool:
        """Whether the scale can show a value."""
        return math.isfinite(value) and (value > 0 or not self.log)


@dataclass(frozen=True, slots=True)
class Figure:
    """Series on two axes, with horizontal lines at labelled `levels`. A `wide` one takes the width
    of the page. Points that the axes cannot show are left out."""

    title: str
    caption: str
    series: Sequence[Series]
    x: Axis
    y: Axis
    levels: Mapping[str, float] = field(default_factory=dict)
    wide: bool = False

    @property
    def name(self) -> str:
        """The title as the name of a file."""
        return self.title.lower().replace(" ", "-")

    @property
    def shown(self) -> list[Series]:
        """The series that have something to show."""
        kept = [
            replace(s, points=[p for p in s.points if self.x.fits(p.x) and self.y.fits(p.y)])
            for s in self.series
        ]
        return [series for series in kept if series.points]


def styles(finding: Finding) -> dict[str, Style]:
    """The style of each arm: the whole model and the best arms by validation stand out."""
    cut = [arm for arm in finding.arms if arm.arm != WHOLE]
    if len(cut) >= N_STYLES:
        cut.sort(key=lambda arm: arm.trained.validation if arm.trained else math.inf)
        cut = cut[: N_STYLES - 1]
    names = {arm.arm: f"a{place}" for place, arm in enumerate(cut, 1)} | {WHOLE: "a0"}
    return {arm.arm: Style(names.get(arm.arm, "other"), _label(arm)) for arm in finding.arms}


def _label(arm: Arm) -> str:
    """The label of an arm that is not below a heading: a bare number is a layer."""
    return f"layer {arm.label}" if arm.label.isdigit() else arm.label


def learning(seen: Look, looks: Mapping[str, Style]) -> Iterator[Figure]:
    """Training and validation loss over tokens."""
    near, far = _apart(seen.finding, seen.found.trials)
    caption = "{} over tokens: the best trial of each arm in full colour, the others faint."
    caption += f" Left out, far above the others: {', '.join(far)}." if far else ""
    for metric, title in CURVES.items():
        series = [*_curves(seen, near, looks, metric)]
        if metric == "eval/loss":
            series = [*_early(seen.found.trials, near, looks), *series]
        axes = Axis("tokens seen"), Axis("nats per token")
        yield Figure(title, caption.format(title), series, *axes)


def _apart(finding: Finding, rows: Sequence[Trial]) -> tuple[set[str], list[str]]:
    """Arms whose curves fit into one figure, and labels of those far above: at their end, or, where
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
    return near, [_label(arm) for arm in finding.arms if arm.arm in shown - near]


def _early(rows: Sequence[Trial], near: set[str], looks: Mapping[str, Style]) -> Iterator[Series]:
    """Validation losses of the trials that ended early; a single one is a mark."""
    early = [row for row in rows if row.losses and row.state != "complete" and row.arm in near]
    for row in early[:MAX_FAINT]:
        style, marks = looks[row.arm], len(row.losses) == 1
        points = [Point(x, y, f"{style.label}: {y:.3f}, ended early") for x, y in row.losses]
        yield Series(style, points, line=True, marks=marks, hollow=True, faint=True)


def _curves(
    seen: Look, near: set[str], looks: Mapping[str, Style], metric: str
) -> Iterator[Series]:
    """One curve a trial, that of the best trial of an arm in front; the whole model last."""
    done = {arm: trials for arm, trials in seen.trials.items() if arm in near}
    best = {arm: arms.choose(trials)[:1] for arm, trials in done.items()}
    rest = [(a, t) for a, trials in done.items() for t in trials if t not in best[a]]
    first = [(arm, trial) for arm, trials in best.items() for trial in trials]
    first.sort(key=lambda item: looks[item[0]].name, reverse=True)
    for arm, trial in [*rest[:MAX_FAINT], *first]:
        style, faint = looks[arm], trial not in best[arm]
        points = [
            Point(x, m[metric], f"{style.label}: {m[metric]:.3f} at {x:,} tokens")
            for x, m, _ in trial.result.curve
            if metric in m
        ]
        marks = not faint and len(points) <= MAX_MARKED
        yield Series(style, points, line=True, marks=marks, faint=faint)


def layers(seen: Look, looks: Mapping[str, Style], root: Path) -> Iterator[Figure]:
    """Perplexity over the removed layer, untrained and trained, beside a scan of the same model and
    corpus; nothing where no arm removes a single layer."""
    found = seen.found
    single = arms.single(seen.finding.arms)
    if not single:
        return
    series = [part for arm in single for part in _layer(arm, looks[arm.arm])]
    caption = "Test perplexity by removed layer. Hollow: untrained. Filled: trained, with its 95% "
    caption += "interval. Dashed: the whole model."
    if scan := scans.find(root, found.weights, found.corpus.split("+")[0]):
        points = [Point(int(cut.remove), cut.score.perplexity) for cut in scan.kind("layers")]
        scanned = Style("scan", "scan of validation text")
        series = [Series(scanned, points, line=True, marks=False), *series]
        caption += " Dotted: a scan of validation text, untrained."
    top = TOP * statistics.median(arm.untrained.perplexity for arm in single)
    numbers = sorted({point.x for part in series for point in part.points})
    x, y = Axis("removed layer", ticks=numbers), Axis("perplexity", log=True, top=top)
    levels, wide = _levels(seen.finding), len(numbers) > NARROW
    yield Figure("Perplexity by removed layer", caption, series, x, y, levels, wide)


def _layer(arm: Arm, style: Style) -> Iterator[Series]:
    """A removed layer, untrained and, where it is, trained."""
    layer, before = float(arm.parts[0]), arm.untrained.perplexity
    text = f"{style.label}, untrained: {number(before)}"
    yield Series(style, [Point(layer, before, text)], hollow=True)
    if after := arm.trained:
        value, ends = after.score.perplexity, after.perplexity.interval
        text = f"{style.label}, trained: {number(value)} {interval(after.perplexity)}"
        yield Series(style, [Point(layer, value, text, (ends.low, ends.high))])


def _levels(finding: Finding) -> dict[str, float]:
    """Perplexities of the whole model."""
    whole = next((arm for arm in finding.arms if arm.arm == WHOLE), None)
    if not whole:
        return {}
    trained = {"trained": whole.trained.score.perplexity} if whole.trained else {}
    return {"untrained": whole.untrained.perplexity} | trained


def settings(seen: Look, looks: Mapping[str, Style]) -> Iterator[Figure]:
    """Validation loss against each setting that was varied."""
    rows = [row for row in seen.found.trials if row.value is not None and row.arm in looks]
    note = " Hollow: ended early, at its last loss." * any(row.state == "pruned" for row in rows)
    for name in seen.found.varied:
        words = name.replace("_", " ")
        groups: dict[tuple[str, bool], list[Point]] = {}
        for row in rows:
            x, y, early = row.params.get(name), row.value, row.state == "pruned"
            if isinstance(x, int | float) and y is not None:
                text = f"{looks[row.arm].label}, {words} {x:g}: {y:.3f} nats per token"
                point = Point(float(x), y, text + ", ended early" * early)
                groups.setdefault((row.arm, early), []).append(point)
        series = [Series(looks[arm], points, hollow=e) for (arm, e), points in groups.items()]
        series.sort(key=lambda part: part.style.name, reverse=True)
        values = sorted({point.x for points in groups.values() for point in points})
        log = bool(values) and 0 < 3 * values[0] < values[-1]
        axis = Axis(words, log, values if len(values) <= MAX_TICKS else ())
        caption = f"Validation loss against {words}, every trial.{note}"
        yield Figure(f"Validation loss by {words}", caption, series, axis, Axis("nats per token"))


def trade_offs(seen: Look, looks: Mapping[str, Style]) -> Iterator[Figure]:
    """Test perplexity against the size of the model, and against its speed, where they differ."""
    trained = [arm for arm in seen.finding.arms if arm.trained]
    sizes = {arm.arm: arm.parameters / 1e6 for arm in trained}
    speeds = {arm.arm: arm.cost.tokens_per_second for arm in trained if arm.cost}
    for sign, name, places, unit, said in (
        (1, "size", sizes, "million parameters", "the number of parameters left"),
        (-1, "speed", speeds, "generated tokens per second", "the speed of generation"),
    ):
        points = {}
        for arm in trained:
            if arm.trained and arm.arm in places:
                x, y = places[arm.arm], arm.trained.score.perplexity
                text = f"{looks[arm.arm].label}: {x:.4g} {unit}, perplexity {number(y)}"
                points[arm.arm] = Point(x, y, text)
        front = pareto([*points.values()], sign=sign)
        series = [Series(Style("front", "Pareto front"), front, line=True, marks=False)]
        ordered = sorted(points, key=lambda name: looks[name].name, reverse=True)
        series += [Series(looks[arm_name], [points[arm_name]]) for arm_name in ordered]
        if len({*places.values()}) > 1:
            caption = f"Test perplexity, trained, against {said}. {PARETO}"
            axes = Axis(unit), Axis("perplexity", log=True)
            yield Figure(f"Perplexity by {name}", caption, series, *axes)


def pareto(points: Sequence[Point], *, sign: int) -> list[Point]:
    """The points that no other one beats in both: y is better when low, x when low (sign 1) or
    high (-1)."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (sign * p.x, p.y)):
        if not best or point.y < best[-1].y:
            best.append(point)
    return best
