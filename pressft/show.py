"""Results for people at a terminal, or as JSON: tables of arms, scans, plans and corpora."""

import json
from collections.abc import Iterable
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pressft import tables
from pressft.arms import Finding
from pressft.cuts import Scan
from pressft.design import Study


def finding(found: Finding, *, as_json: bool) -> None:
    """Print a study's tables and what is to be said of them, or all of it as JSON."""
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return
    for table in tables.of(found):
        _table(table)
    for line in tables.lines(found):
        typer.echo(line)


def _table(table: tables.Table) -> None:
    shown = Table(title=table.caption, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for position, name in enumerate(table.header):
        header = name.replace(" ", "\n") if len(name) > 9 else name
        shown.add_column(header, justify="right" if position else "left", no_wrap=True)
    for row in table.rows:  # intervals and remarks go under their numbers: 80 columns
        shown.add_row(*(cell.replace(" [", "\n[").replace(" (", "\n(") for cell in row))
    Console().print(shown)


def scan(found: Scan, *, as_json: bool) -> None:
    """Print a row a layer: perplexity without it, without each half, and the cheap criteria."""
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
    typer.echo(f"* the cheapest; rank correlation with the perplexity: {ranks}")


def plan(study: Study, *, as_json: bool) -> None:
    """Print the trials that a study asks for."""
    if study.design == "grid":
        asked = [
            {**params, "tokens": study.spec(**params | {"remove": "none"}).trained_tokens}
            for params in study.grid()
        ]
    else:
        asked = [
            {"remove": arm, "trials": study.trials, "tokens": study.base.trained_tokens}
            for arm in study.arms()
        ]
    if as_json:
        typer.echo(json.dumps(asked, indent=2))
        return
    for line in asked:
        typer.echo("  ".join(f"{name}={value}" for name, value in line.items()))
    typer.echo(f"{study.name}: {study.n_trials} trials ({study.design})")


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
