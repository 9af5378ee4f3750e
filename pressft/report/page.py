"""One page that answers a study's question: finding, tables, figures, texts, reproducibility.

A self-contained HTML file with a few lines of script of its own; nothing is fetched, and all text
that comes from a corpus or a model is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from pressft.report import figures, status, tables
from pressft.report import finding as arms
from pressft.report.figures import Figure, Style
from pressft.report.finding import Arm, Done, Finding
from pressft.report.status import Look
from pressft.report.tables import Table, interval, number
from pressft.spec import WHOLE
from pressft.study.locations import Locations
from pressft.study.reader import Stored
from pressft.study.results import Store
from pressft.study.sampling import importances

MIN_TRIALS = 6  # complete, or importances say nothing
MAX_TEXTS = 12  # continuations shown of each arm


@dataclass(frozen=True, slots=True)
class Section:
    """Figures and tables under one heading; left out where it has none."""

    title: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def html(study: str, locations: Locations) -> str:
    """The report of a stored study, as far as it is.

    Raises:
        UsageError, MissingError: as `status.find`.
    """
    return page(study, status.look(study, locations), locations)


def page(study: str, seen: Look, locations: Locations) -> str:
    """The report of a study that has been read already."""
    from pressft.report import drawing  # matplotlib, which whoever only looks does not wait for

    found, finding = seen.found, seen.finding
    looks = figures.styles(finding)
    read = any(arm.answers for arm in finding.arms)
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            study=study,
            question=[" ".join(part.split()) for part in found.question.split("\n\n")],
            sentence=sentence(finding),
            state=status.progress(found),
            unfinished=not status.is_done(found),
            arms=tables.scores(finding.arms, wide=True),
            remarks=tables.remarks(finding),
            colours=drawing.COLOURS,
            marks=drawing.marks(),
            legend={style.name: style.entry for style in looks.values()},
            sections=list(_sections(seen, looks, locations)),
            svg=drawing.for_page,
            forgotten=tables.forgetting(finding.arms)
            if any(a.general for a in finding.arms)
            else None,
            answers=tables.answers_by_arm(finding.arms) if read else None,
            texts=list(_texts(seen, looks, Store(locations.root))),
            corpus=_corpus(found),
            facts=_facts(study, found),
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
    )


def files(study: str, locations: Locations) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files for a paper: every figure as SVG, PDF and PNG, in light
    colours and with a legend, and the tables as Markdown and CSV.

    Raises:
        UsageError, MissingError: as `status.find`.
    """
    from pressft.report import drawing

    seen = status.look(study, locations)
    yield "tables.md", tables.markdown(seen.finding).encode()
    yield "arms.csv", tables.as_csv(seen.finding).encode()
    for section in _sections(seen, figures.styles(seen.finding), locations):
        for figure in section.figures:
            yield from drawing.files(figure).items()


def _sections(seen: Look, looks: Mapping[str, Style], locations: Locations) -> Iterator[Section]:
    """What is plotted, in the order of a reader's questions."""
    finding = seen.finding
    costs = [tables.costs(finding.arms)] if any(arm.cost for arm in finding.arms) else []
    for section in (
        Section("Learning curves", [*figures.learning(seen, looks)]),
        Section("Removed layers", [*figures.layers(seen, looks, locations.root)]),
        Section("Settings", [*figures.settings(seen, looks)], _importance(seen.found)),
        Section("Trade-offs", [*figures.trade_offs(seen, looks)], costs),
    ):
        shown = [figure for figure in section.figures if figure.shown]
        if shown or section.tables:
            yield replace(section, figures=shown)


def sentence(finding: Finding) -> str:
    """The finding in words, with its interval."""
    whole = next((arm for arm in finding.arms if arm.arm == WHOLE), None)
    best = finding.best
    if best is None or best.trained is None:
        return "No arm with a removal has been trained yet."
    after = best.trained
    text = (
        f"With {_named(best)} removed, the trained model reaches a test perplexity of "
        f"{number(after.score.perplexity)} {interval(after.perplexity)}"
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


def _texts(seen: Look, looks: Mapping[str, Style], store: Store) -> Iterator[dict[str, Any]]:
    """Continuations side by side, of the arms with a style of their own: of the study's prompts, or
    of the first validation texts."""
    found, done = seen.found, seen.trials
    rows = [arm for arm in seen.finding.arms if looks[arm.arm].name != "other"]
    whole = next((arm for arm in rows if arm.arm == WHOLE), None)
    prompts = found.prompts.get("prompts", ())
    for arm in rows:
        if arm is whole:
            continue
        sides = {
            f"{name}, {when}": written
            for name, row in (("whole model", whole), ("reduced model", arm))
            if row
            for when, written in _continuations(row, found, done, store)
        }
        n = min(map(len, sides.values()), default=0)
        if not n:
            continue
        texts = [{side: sides[side][i] for side in sides} for i in range(min(n, MAX_TEXTS))]
        shown = prompts or [""] * len(texts)
        yield {
            "label": looks[arm.arm].label,
            "sides": list(sides),
            "rows": [{"prompt": p, "texts": r} for p, r in zip(shown, texts, strict=False)],
        }


def _continuations(
    arm: Arm, found: Stored, done: Mapping[str, Sequence[Done]], store: Store
) -> Iterator[tuple[str, Sequence[str]]]:
    after = arm.trained
    if arm.answers and arm.answers.greedy:
        yield "untrained", arm.answers.greedy
        if after and after.answers:
            yield "trained", after.answers.greedy
        return
    noted = (r.attrs.get("untrained") for r in found.trials if r.arm == arm.arm)
    key = next(filter(None, noted), None)  # a trial killed at once has noted nothing
    before = store.untrained(str(key)) if key else None
    if before:
        yield "untrained", before.samples
    if after:
        best = next(t for t in done[arm.arm] if t.number == after.number)
        yield "trained", best.result.samples


def _importance(found: Stored) -> list[Table]:
    """How much of the validation loss each setting accounts for, where several were tried."""
    if sum(row.state == "complete" for row in found.trials) < MIN_TRIALS:
        return []
    shares = importances(found.trials, found.definition["space"])
    if len(shares) < 2:
        return []
    rows = tuple((name.replace("_", " "), f"{share:.0%}") for name, share in shares.items())
    caption = "Importance of the settings for the validation loss, over all arms (Optuna)."
    return [Table(caption, ("setting", "importance"), rows)]


def _corpus(found: Stored) -> Table | None:
    """The counts of the corpus, where they were kept with the study."""
    counts = found.corpus_summary
    if not counts:
        return None
    rows = tuple(
        (name, *(f"{size[unit]:,}" for unit in ("articles", "words", "characters")))
        for name, size in counts["splits"].items()
    )
    caption = f"{counts['used']:,} articles, {counts['first'] or '?'} to {counts['last'] or '?'}, "
    caption += f"of {', '.join(counts['newsrooms'])}; {counts['duplicates']} duplicates left out."
    return Table(caption, ("split", "articles", "words", "characters"), rows)


def _facts(study: str, found: Stored) -> list[tuple[str, str]]:
    """What is needed to reproduce the study, by name."""
    base, space = found.definition["base"], found.definition["space"]
    seeds = _words(found.definition["seeds"])
    facts = [
        ("study", study),
        ("command", str(found.environment.get("command", f"pressft sweep, study {study}"))),
        ("design", f"{found.definition['design']}, seeds {seeds}"),
        ("pruning", found.definition.get("pruning", "none")),
        *((f"swept: {name}", _words(values)) for name, values in space.items()),
        *((name, _words(value)) for name, value in base.items() if name not in {*space, "seed"}),
        ("weights", found.weights),
        ("corpus fingerprint", found.corpus),
        *((name, str(value)) for name, value in found.environment.items() if name != "command"),
    ]
    return [(name.replace("_", " "), value) for name, value in facts if value]


def _words(value: object) -> str:
    """Choices, a range or one value, for people."""
    if isinstance(value, dict):
        ends = f"{value['low']:g} to {value['high']:g}"
        return f"{ends}, on a log scale" if value.get("log") else ends
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
