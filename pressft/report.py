"""One page that answers a study's question: finding, tables, charts, texts, and how to repeat it.

A self-contained HTML file with a few lines of script of its own; nothing is fetched, and all text
that comes from a corpus or a model is escaped.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from pressft import arms, charts, corpora, corpus, cuts, status, tables
from pressft.arms import WHOLE, Arm, Done, Finding
from pressft.charts import MARKS, Axis, Level, Point, Series
from pressft.errors import PressftError
from pressft.planning import Row
from pressft.results import Store
from pressft.status import Stores
from pressft.study import Stored, importances
from pressft.tables import Table, number

N_COLOURS = 7  # arms with a colour of their own; the others are grey
TOP = 4  # times the median untrained perplexity: above, a layer is an arrow with a number
FAR = 1.0  # nats a token above the best: it would press all others flat
MAX_FAINT = 60  # curves behind the best ones
MIN_TRIALS = 6  # complete, or importances say nothing
MAX_TEXTS = 12  # continuations shown of each arm
CURVES = {"train/loss": "Training loss", "eval/loss": "Validation loss"}


@dataclass(frozen=True, slots=True)
class Style:
    """How an arm looks on the whole page."""

    css: str
    mark: str
    label: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart and what it shows."""

    caption: str
    svg: str
    wide: bool = False


def html(study: str, stores: Stores) -> str:
    """The report of a stored study, as far as it is.

    Raises:
        UsageError, MissingError: as `status.find`.
    """
    found = status.find(study, stores)
    return page(study, found, status.read(found, stores), stores)


def page(study: str, found: Stored, finding: Finding, stores: Stores) -> str:
    """The report of a study that has been read already."""
    done = status.by_arm(found.rows, Store(stores.root))
    styles = _styles(finding)
    complete = sum(row.state == "complete" for row in found.rows)
    asked = max(found.asked, complete)
    template = _environment().get_template("report.html.jinja")
    return template.render(
        study=study,
        question=[" ".join(part.split()) for part in found.question.split("\n\n")],
        sentence=sentence(finding),
        state=f"{complete} of {asked} trials done",
        unfinished=complete < asked,
        lines=tables.lines(finding),
        tables=[*tables.of(finding), *_importance(study, found, stores)],
        styles=list(styles.values()),
        marks={mark: charts.mark_path(mark, 7, 7) for mark in MARKS},
        figures=[figure for figure in _figures(found, finding, done, styles, stores) if figure.svg],
        texts=list(_texts(found, _coloured(finding, styles), done, Store(stores.root))),
        corpus=_corpus(found),
        facts=_facts(study, found),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def sentence(finding: Finding) -> str:
    """The finding in words, with its interval."""
    whole = next((arm for arm in finding.arms if arm.arm == WHOLE), None)
    best = finding.best
    if best is None or best.trained is None:
        return "No cut has been trained yet."
    after = best.trained
    text = (
        f"Without {_named(best)} the model reaches, once trained, a test perplexity of "
        f"{number(after.score.perplexity)} {_ends(after.perplexity)}"
    )
    if whole is None or whole.trained is None or after.ratio is None:
        return f"{text}; the whole model has not been trained yet."
    ratio = after.ratio
    if 1 in ratio.interval:
        text += f": no difference from the trained whole model is shown ({_times(ratio)} times)"
    else:
        text += f", {_times(ratio)} times that of the trained whole model"
    if after.recovery is not None:
        text += f"; {after.recovery:.0%} of the damage is healed"
    return f"{text}."


def _named(arm: Arm) -> str:
    parts = ", ".join(map(str, arm.parts))
    return f"layer {parts}" if len(arm.parts) == 1 else f"layers {parts}"


def _ends(estimate: arms.Estimate) -> str:
    low, high = estimate.interval.low, estimate.interval.high
    return f"[{number(low)}, {number(high)}]"


def _times(estimate: arms.Estimate) -> str:
    low, high = estimate.interval.low, estimate.interval.high
    return f"{estimate.value:.2f} [{low:.2f}, {high:.2f}]"


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _styles(finding: Finding) -> dict[str, Style]:
    """The whole model and the best cuts have colours of their own, by rank of validation."""
    rows = list(finding.arms)
    ranked = sorted(
        (row for row in rows if row.arm != WHOLE),
        key=lambda row: row.trained.validation if row.trained else float("inf"),
    )
    few = len(ranked) < N_COLOURS
    coloured = [row for row in rows if row.arm != WHOLE] if few else ranked[: N_COLOURS - 1]
    place = {row.arm: index for index, row in enumerate(coloured, 1)}
    styles = {}
    for row in rows:
        index = 0 if row.arm == WHOLE else place.get(row.arm, N_COLOURS)
        css = f"a{index}" if index < N_COLOURS else "other"
        mark = MARKS[index] if index < N_COLOURS else "circle"
        styles[row.arm] = Style(css, mark, row.label)
    return styles


def _coloured(finding: Finding, styles: Mapping[str, Style]) -> list[Arm]:
    return [arm for arm in finding.arms if styles[arm.arm].css != "other"]


def _figures(
    found: Stored,
    finding: Finding,
    done: Mapping[str, Sequence[Done]],
    styles: Mapping[str, Style],
    stores: Stores,
) -> Iterator[Figure]:
    yield _depth(found, finding, styles, stores)
    near, far = _apart(finding)
    left_out = f" Left out, far above: {', '.join(far)}." if far else ""
    for metric, title in CURVES.items():
        series = list(_curves({arm: done[arm] for arm in done if arm in near}, styles, metric))
        svg = charts.plot(series, Axis("tokens seen"), Axis("nats a token"), title)
        caption = f"{title} by tokens: the best trial of each arm strong, others faint.{left_out}"
        yield Figure(caption, svg)
    for name in found.varied:
        yield Figure(
            f"Validation loss against {name.replace('_', ' ')}, every trial.",
            _settings(name, found.rows, styles),
        )
    yield from _trade_offs(finding, styles)


def _apart(finding: Finding) -> tuple[set[str], list[str]]:
    """Arms whose curves fit one picture, and labels of those far above."""
    losses = {arm: arm.trained.validation for arm in finding.arms if arm.trained}
    limit = min(losses.values(), default=0.0) + FAR
    near = {arm.arm for arm, loss in losses.items() if loss <= limit}
    return near, [arm.label for arm, loss in losses.items() if loss > limit]


def _curves(
    done: Mapping[str, Sequence[Done]], styles: Mapping[str, Style], metric: str
) -> Iterator[Series]:
    best = {arm: arms.choose(trials)[:1] for arm, trials in done.items()}
    rest = [(a, t) for a, trials in done.items() for t in trials if t not in best[a]]
    for arm, trial in rest[:MAX_FAINT]:
        points = [Point(x, m[metric], "") for x, m in trial.result.curve if metric in m]
        yield Series(f"{styles[arm].css} faint", tuple(points), line=True)
    for arm, trials in best.items():
        style = styles[arm]
        for trial in trials:
            points = [
                Point(x, m[metric], f"{style.label}: {m[metric]:.3f} at {x:,} tokens")
                for x, m in trial.result.curve
                if metric in m
            ]
            marked = style.mark if len(points) <= 12 else ""
            yield Series(style.css, tuple(points), line=True, mark=marked)


def _depth(found: Stored, finding: Finding, styles: Mapping[str, Style], stores: Stores) -> Figure:
    """Perplexity over the removed layer: untrained, healed, and as a scan foretold."""
    single = [arm for arm in finding.arms if len(arm.parts) == 1 and isinstance(arm.parts[0], int)]
    whole = next((arm for arm in finding.arms if arm.arm == WHOLE), None)
    series = []
    scan = cuts.find(stores.root, found.weights, found.corpus.split("+")[0])
    if scan:
        points = [Point(int(cut.remove), cut.score.perplexity, "") for cut in scan.kind("layers")]
        series.append(Series("scan", tuple(points), line=True))
    for arm in single:
        style, layer = styles[arm.arm], float(arm.parts[0])
        before = arm.untrained.perplexity
        tip = f"{style.label}, untrained: {number(before)}"
        point = Point(layer, before, tip)
        series.append(Series(style.css, (point,), mark=style.mark, hollow=True))
        if after := arm.trained:
            value, ends = after.score.perplexity, after.perplexity.interval
            tip = f"{style.label}, trained: {number(value)} {_ends(after.perplexity)}"
            point = Point(layer, value, tip, ends.low, ends.high)
            series.append(Series(style.css, (point,), mark=style.mark))
    levels = []
    if whole:
        levels.append(Level(whole.untrained.perplexity, "whole, untrained"))
        if whole.trained:
            levels.append(Level(whole.trained.score.perplexity, "whole, trained"))
    caption = "Test perplexity by removed layer: hollow untrained, filled trained with its interval"
    caption += "; the line is the scan of validation text." if scan else "."
    if not single:
        return Figure(caption, "")
    top = TOP * statistics.median(arm.untrained.perplexity for arm in single)
    axes = Axis("removed layer"), Axis("perplexity", log=True, top=top)
    svg = charts.plot(series, *axes, "Perplexity by removed layer", levels, wide=True)
    return Figure(caption, svg, wide=True)


def _settings(name: str, rows: Sequence[Row], styles: Mapping[str, Style]) -> str:
    """Every complete trial at its value of a setting."""
    series = []
    values: list[float] = []
    for row in rows:
        value = row.params.get(name)
        if row.value is None or not isinstance(value, int | float) or row.arm not in styles:
            continue
        values.append(float(value))
        style = styles[row.arm]
        tip = f"{style.label}, {name} {value:g}: {row.value:.3f} nats a token"
        series.append(Series(style.css, (Point(float(value), row.value, tip),), mark=style.mark))
    log = bool(values) and min(values) > 0 and max(values) > 3 * min(values)
    ticks = tuple(sorted(set(values))) if len(set(values)) <= charts.MAX_TICKS else ()
    axis = Axis(name.replace("_", " "), log, ticks)
    return charts.plot(series, axis, Axis("validation loss"), f"Validation loss against {name}")


def _trade_offs(finding: Finding, styles: Mapping[str, Style]) -> Iterator[Figure]:
    """Perplexity against size and against speed."""
    trained = [(arm, arm.trained) for arm in finding.arms if arm.trained]
    if len({arm.parameters for arm, _ in trained}) > 2:  # or it is whole against cut
        series = [
            Series(
                styles[arm.arm].css,
                (
                    Point(
                        arm.parameters / 1e6,
                        after.score.perplexity,
                        f"{arm.label}: {arm.parameters / 1e6:,.2f}M parameters, "
                        f"{number(after.score.perplexity)}",
                    ),
                ),
                mark=styles[arm.arm].mark,
            )
            for arm, after in trained
        ]
        axes = Axis("parameters, millions"), Axis("perplexity", log=True)
        svg = charts.plot(series, *axes, "Test perplexity against parameters")
        yield Figure("Test perplexity, trained, against the parameters that are left.", svg)
    timed = [(arm, after, arm.cost) for arm, after in trained if arm.cost]
    series = [
        Series(
            styles[arm.arm].css,
            (
                Point(
                    cost.tokens_per_second,
                    after.score.perplexity,
                    f"{arm.label}: {cost.tokens_per_second:.1f} tokens/s, "
                    f"{number(after.score.perplexity)}",
                ),
            ),
            mark=styles[arm.arm].mark,
        )
        for arm, after, cost in timed
        if cost
    ]
    axes = Axis("generated tokens a second"), Axis("perplexity", log=True)
    svg = charts.plot(series, *axes, "Test perplexity against speed")
    yield Figure("Test perplexity, trained, against the speed of generation.", svg)


def _texts(
    found: Stored, rows: Sequence[Arm], done: Mapping[str, Sequence[Done]], store: Store
) -> Iterator[dict[str, Any]]:
    """Continuations side by side: of the study's prompts, or of the first validation texts."""
    whole = next((arm for arm in rows if arm.arm == WHOLE), None)
    prompts = found.material.get("prompts", ())
    for arm in rows:
        if arm is whole:
            continue
        sides = {
            f"{name}, {when}": written
            for name, row in (("whole", whole), ("cut", arm))
            if row
            for when, written in _continuations(row, found, done, store)
        }
        n = min(map(len, sides.values()), default=0)
        if not n:
            continue
        texts = [{side: sides[side][i] for side in sides} for i in range(min(n, MAX_TEXTS))]
        shown = prompts or [""] * len(texts)
        yield {
            "label": arm.label,
            "sides": list(sides),
            "rows": [{"prompt": p, "texts": r} for p, r in zip(shown, texts, strict=False)],
        }


def _continuations(
    arm: Arm, found: Stored, done: Mapping[str, Sequence[Done]], store: Store
) -> Iterator[tuple[str, Sequence[str]]]:
    after = arm.trained
    if arm.reading and arm.reading.greedy:
        yield "untrained", arm.reading.greedy
        if after and after.reading:
            yield "trained", after.reading.greedy
        return
    noted = (r.attrs.get("untrained") for r in found.rows if r.arm == arm.arm)
    key = next(filter(None, noted), None)  # a trial killed at once has noted nothing
    before = store.untrained(str(key)) if key else None
    if before:
        yield "untrained", before.samples
    if after:
        best = next(t for t in done[arm.arm] if t.number == after.number)
        yield "trained", best.result.samples


def _importance(study: str, found: Stored, stores: Stores) -> list[Table]:
    """How much of the validation loss each setting accounts for, where several were tried."""
    if sum(row.state == "complete" for row in found.rows) < MIN_TRIALS:
        return []
    shares = importances(study, stores.storage)
    if len(shares) < 2:
        return []
    rows = tuple((name.replace("_", " "), f"{share:.0%}") for name, share in shares.items())
    caption = "Importance of the settings for the validation loss, over all arms (Optuna)."
    return [Table(caption, ("setting", "importance"), rows)]


def _corpus(found: Stored) -> dict[str, Any]:
    """Counts of the corpus, where it is still the one that was studied."""
    try:
        there = corpora.find(found.base.corpus)
    except PressftError as error:
        return {"table": None, "fault": str(error)}
    if there.fingerprint != found.corpus.split("+")[0]:
        fault = f"{found.base.corpus} has changed since: {there.fingerprint[:16]} now"
        return {"table": None, "fault": fault}
    counts = corpus.summary(there)
    rows = tuple(
        (name, f"{size.articles:,}", f"{size.words:,}", f"{size.characters:,}")
        for name, size in counts.splits.items()
    )
    caption = f"{counts.used:,} articles, {counts.first or '?'} to {counts.last or '?'}, of "
    caption += f"{', '.join(counts.newsrooms)}; {counts.duplicates} duplicates left out."
    return {"table": Table(caption, ("split", "articles", "words", "characters"), rows)}


def _facts(study: str, found: Stored) -> list[tuple[str, str]]:
    """How it was done, to do it again."""
    space = {
        name: values if isinstance(values, str) else json.dumps(values)
        for name, values in found.definition["space"].items()
    }
    base = found.definition["base"]
    return [
        ("study", study),
        ("command", str(found.environment.get("command", f"pressft sweep, study {study}"))),
        ("design", f"{found.definition['design']}, seeds {found.definition['seeds']}"),
        *((f"swept: {name}", values) for name, values in space.items()),
        *((name, str(value)) for name, value in base.items() if name not in space),
        ("weights", found.weights),
        ("corpus fingerprint", found.corpus),
        *((name, str(value)) for name, value in found.environment.items() if name != "command"),
    ]
