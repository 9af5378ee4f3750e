"""Results for people at a terminal, or as JSON: tables of arms, scans, plans and corpora."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table

from pressft.report import tables
from pressft.report.finding import Finding
from pressft.study.scans import Scan
from pressft.study.trials import Trial

if TYPE_CHECKING:
    from pressft.plan import Plan


def finding(found: Finding, *, as_json: bool) -> None:
    """Print a study's tables and the lines below them, or all of it as JSON."""
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return
    for table in tables.of(found):
        Console().print(_table(table))
    for line in tables.lines(found):
        typer.echo(line)


def status(found: Finding, progress: str, running: Sequence[Trial], *, as_json: bool) -> None:
    """Print how far a study is: its tables, and the running trials."""
    if as_json:
        trials = [_as_json(trial) for trial in running]
        typer.echo(
            json.dumps(found.as_json() | {"progress": progress, "running": trials}, indent=2)
        )
        return
    finding(found, as_json=False)
    if running:
        Console().print(_table(_running(running)))
    typer.echo(progress)


def live(found: Finding, progress: str, running: Sequence[Trial]) -> Group:
    """The first table, the running trials and the progress, to be drawn again and again."""
    parts = [_table(tables.of(found)[0])] if found.arms else []
    parts += [_table(_running(running))] if running else []
    return Group(*parts, progress)


def _running(running: Sequence[Trial]) -> tables.Table:
    rows = tuple(
        (
            str(trial.number),
            trial.arm,
            trial.worker,
            f"{trial.tokens:,} of {trial.spec.trained_tokens:,}",
            f"{trial.losses[-1][1]:.3f}" if trial.losses else "-",
        )
        for trial in running
    )
    header = ("trial", "arm", "worker", "tokens", "validation")
    return tables.Table(
        "Running trials, as of the last validation; loss in nats per token.", header, rows
    )


def _as_json(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "arm": trial.arm,
        "worker": trial.worker,
        "tokens": trial.tokens,
        "of": trial.spec.trained_tokens,
        "loss": trial.losses[-1][1] if trial.losses else None,
    }


def _table(table: tables.Table) -> Table:
    shown = Table(title=table.caption, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for position, name in enumerate(table.header):
        header = name.replace(" ", "\n") if len(name) > 9 else name
        shown.add_column(header, justify="right" if position else "left", no_wrap=True)
    for row in table.rows:  # intervals and remarks go under their numbers: 80 columns
        shown.add_row(*(cell.replace(" [", "\n[").replace(" (", "\n(") for cell in row))
    return shown


def scan(found: Scan, *, as_json: bool) -> None:
    """Print a row a layer: perplexity without it, without each half, and the criteria that need no
    evaluation."""
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return
    layers = found.kind("layers")
    columns = {
        "without": layers,
        "no attention": found.kind("attention"),
        "no mlp": found.kind("mlp"),
    }
    columns = {name: cuts for name, cuts in columns.items() if cuts}
    best = {min(cuts, key=lambda cut: cut.score.loss).remove for cuts in columns.values()}
    whole = tables.number(found.base.perplexity)
    title = f"perplexity of {found.model} without a layer; whole: {whole}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("layer", *columns, "influence", "angle", "taylor"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, layer in enumerate(layers):
        cells = [
            tables.number(cut.score.perplexity) + ("*" if cut.remove in best else " ")
            for cut in (cuts[index] for cuts in columns.values())
        ]
        cheap = (layer.influence, layer.angular_distance, layer.taylor)
        table.add_row(layer.remove, *cells, *(f"{value:.3f}" for value in cheap))
    Console().print(table)
    for cut in sorted(found.kind("blocks"), key=lambda cut: cut.score.loss)[:3]:
        typer.echo(f"without {cut.remove}: {tables.number(cut.score.perplexity)}")
    ranks = ", ".join(f"{name} {value:.2f}" for name, value in found.correlations().items())
    typer.echo(f"* lowest perplexity; rank correlation with the perplexity: {ranks}")


def plan(found: "Plan", *, as_json: bool) -> None:
    """Print what a sweep would do: its trials, and the time of each arm where it was measured."""
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found) | {"seconds": found.seconds}, indent=2))
        return
    for cell in found.cells:
        words = [f"{name}={value}" for name, value in cell.params.items()]
        typer.echo("  ".join([*words, f"tokens={cell.tokens}", "known" if cell.known else ""]))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    timed = found.seconds is not None
    for name in ("arm", "removed", "trials", "known", "tokens", *(("time",) if timed else ())):
        table.add_column(name, justify="left" if name == "arm" else "right", no_wrap=True)
    for arm in found.arms:
        counts = (f"{n:,}" for n in (arm.trials, arm.known, arm.tokens))
        time = () if arm.seconds is None else (_duration(arm.seconds),)
        table.add_row(arm.arm, ",".join(arm.removed) or "-", *counts, *time)
    Console().print(table)
    n, known = (sum(getattr(arm, name) for arm in found.arms) for name in ("trials", "known"))
    left = "--measure says what the rest takes on this machine"
    if found.seconds is not None and found.peak_bytes is not None:
        left = (
            f"the rest takes about {_duration(found.seconds)} in one process of "
            f"{found.peak_bytes / 2**30:.1f} GiB at most"
        )
    typer.echo(f"{found.study}: {n} trials, {known} known; {left}")


def _duration(seconds: float) -> str:
    """A time as text: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def corpus(summary: dict[str, Any], *, as_json: bool) -> None:
    """Print a corpus summary as aligned lines."""
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    lines = []
    for name, value in summary.items():
        if name == "splits":
            for split, size in value.items():
                words = "{articles} articles, {words:,} words, {characters:,} characters"
                lines.append((split, words.format(**size)))
        elif isinstance(value, dict):
            counts = ", ".join(f"{key or 'undeclared'} {n}" for key, n in value.items())
            lines.append((name, counts))
        else:
            lines.append((name.replace("_", " "), str(value) if value is not None else "-"))
    for name, text in lines:
        typer.echo(f"{name:<12} {text}")


def dropped(paragraphs: Iterable[dict[str, str]], *, as_json: bool) -> None:
    """Print paragraphs left out of a corpus, one a line: reason, article id, text; or as JSON."""
    if as_json:
        typer.echo(json.dumps(list(paragraphs), indent=2, ensure_ascii=False))
        return
    for paragraph in paragraphs:
        typer.echo("\t".join(paragraph[name] for name in ("reason", "id", "text")))
