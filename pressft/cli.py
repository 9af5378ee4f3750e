"""The command line. What is heavy to import is imported inside the commands."""

import contextlib
import dataclasses
import gc
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pressft._signals import Stopped
from pressft.errors import MissingError, PressftError, UsageError
from pressft.spec import ScanSpec, TrialSpec
from pressft.study.locations import Locations

if TYPE_CHECKING:
    from pressft.study.study import Study
    from pressft.sweep import Outcome

ROOT = Path("mlruns")
WATCH_S = 3.0  # between two looks of `status --watch`

app = typer.Typer(
    name="pressft",
    help="Which decoder layer can be removed, and what does that cost once the model is "
    "fine-tuned on a newsroom?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _studies(incomplete: str) -> list[str]:
    """Names that the shell may complete."""
    from pressft.study import reader

    if not (ROOT / "optuna.db").is_file():
        return []
    return [name for name in reader.names(Locations(ROOT).storage) if name.startswith(incomplete)]


StudyName = Annotated[str, typer.Argument(help="Name of a study.", autocompletion=_studies)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="PRESSFT_STORAGE", help="Optuna storage URL; default: SQLite, mlruns/optuna.db."
    ),
]
Uri = Annotated[
    str | None,
    typer.Option(
        envvar="PRESSFT_TRACKING_URI", help="MLflow server; default: SQLite, mlruns/mlflow.db."
    ),
]


@app.command()
def corpus(
    folder: Annotated[Path, typer.Argument(help="Folder written by scrapy crawl press.")],
    export: Annotated[
        str | None, typer.Option(help="Print a split (train, validation, test) as JSON lines.")
    ] = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Show what cleaning left out: reason, article, text.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify a corpus and show its counts, dates, languages, duplicates, splits, fingerprint."""
    from pressft.corpus import summary as inventory
    from pressft.corpus.format import read, read_dropped, read_manifest
    from pressft.report import terminal

    if dropped:
        read_manifest(folder)  # a folder that is no corpus is named
        terminal.dropped(map(dataclasses.asdict, read_dropped(folder)), as_json=as_json)
        return
    found = read(folder)
    if export:
        for line in inventory.export_lines(found, export):
            typer.echo(line)
        return
    summary = dataclasses.asdict(inventory.summary(found))
    terminal.corpus(summary, as_json=as_json)


As = Annotated[
    str, typer.Option("--as", help="Another name for the study; known results are used.")
]


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="Experiment file that holds a STUDY.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the trials asked for; run none.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --dry-run: also time and memory, from a probe.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train at the same time.")] = 1,
    budget_hours: Annotated[
        float | None, typer.Option(min=0.0, help="Start no new trial after so many hours.")
    ] = None,
    name: As = "",
    storage: Storage = None,
    tracking_uri: Uri = None,
    as_json: Json = False,
) -> None:
    """Run a study, or resume it; print its table."""
    from pressft import progress
    from pressft.corpus import load
    from pressft.report import terminal

    until = time.time() + 3600 * budget_hours if budget_hours is not None else float("inf")
    study, locations = _study(file, name), Locations(ROOT, storage, tracking_uri)
    if measure and not dry_run:
        raise UsageError("--measure goes with --dry-run: what it measures is not run")
    load.check(study.base.corpus)  # found missing before seconds of imports
    if dry_run:
        from pressft import plan

        with progress.reporter() as report:
            found = plan.outline(study, locations, report.setup)
            if measure:
                found = plan.measured(study, found, locations, report.setup)
        terminal.plan(found, as_json=as_json)
        return
    with progress.reporter() as report:
        from pressft.sweep import run_sweep

        pool = None
        if workers > 1:
            from pressft.workers import WorkerPool

            command = [sys.executable, "-m", "pressft", "work", str(file)]
            command += ["--as", study.name, "--until", str(until)]
            where = {"PRESSFT_STORAGE": storage, "PRESSFT_TRACKING_URI": tracking_uri}
            pool = WorkerPool(command, {k: v for k, v in where.items() if v}, workers, report)
        outcome = run_sweep(study, report, locations, pool=pool, until=until)
    _print_outcome(outcome, study.name, as_json=as_json)


@app.command(hidden=True)
def work(
    file: Path,
    start_id: Annotated[str, typer.Option()],
    name: As = "",
    until: Annotated[float, typer.Option()] = float("inf"),
    storage: Storage = None,
    tracking_uri: Uri = None,
) -> None:
    """Take trials of a study that `sweep --workers` watches over."""
    from pressft import progress

    with progress.reporter() as report:
        from pressft.sweep import work as take_trials

        locations = Locations(ROOT, storage, tracking_uri)
        take_trials(_study(file, name), report, locations, start_id, until)


def _study(file: Path, name: str) -> "Study":
    """The study of a file, under another name where one is given."""
    from pressft.study import study as design

    study = design.load(file)
    return dataclasses.replace(study, name=name) if name else study


@app.command()
def status(
    study: StudyName,
    watch: Annotated[
        bool, typer.Option("--watch", help="Redraw it every few seconds until the study is done.")
    ] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show the table of a study so far, and its running trials."""
    from pressft.report import terminal
    from pressft.report.status import look, progress

    locations = Locations(ROOT, storage)
    if watch and not as_json:
        _watch(study, locations)
        return
    seen = look(study, locations)
    terminal.status(seen.finding, progress(seen.found), seen.found.running, as_json=as_json)


def _watch(study: str, locations: Locations) -> None:
    """Draw a study's status until it is done, or Ctrl-C."""
    from rich.live import Live

    from pressft.report import status, terminal

    gc.enable()  # it may stand for days
    with contextlib.suppress(KeyboardInterrupt), Live() as screen:
        while True:
            seen = status.look(study, locations)
            running = seen.found.running
            shown = terminal.live(seen.finding, status.progress(seen.found), running)
            screen.update(shown, refresh=True)
            if status.is_done(seen.found) and not running:
                return
            time.sleep(WATCH_S)


@app.command()
def report(
    study: StudyName,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help=".html, .md or .csv; a folder, DIR/: figures and tables; default: STUDY.html",
        ),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the page that answers a study's question, or its figures and tables for a paper, also
    while the study is running."""
    from pressft._files import write_atomically
    from pressft.report import page, status, tables

    locations = Locations(ROOT, storage)
    path = Path(output or f"{study}.html")
    forms = {
        ".html": lambda: page.html(study, locations),
        ".md": lambda: tables.markdown(status.finding(study, locations)),
        ".csv": lambda: tables.as_csv(status.finding(study, locations)),
    }
    is_folder = path.is_dir() or str(output).endswith("/")
    if not is_folder and path.suffix not in forms:
        names = ", ".join(forms)
        raise UsageError(f"{path}: choose a name that ends in {names}, or in / for a folder")
    status.find(study, locations)  # found missing before a folder is made
    written = []
    try:
        if is_folder:
            path.mkdir(parents=True, exist_ok=True)
            files = page.files(study, locations)
        else:
            files = iter([("", forms[path.suffix]().encode())])
        for name, content in files:
            write_atomically(path / name, content)
            written.append(str(path / name))
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror}") from error
    if as_json:
        found = status.finding(study, locations).as_json()
        typer.echo(json.dumps({"file": str(path), "files": written} | found, indent=2))
    else:
        typer.echo("\n".join(written))


@app.command()
def export(
    study: StudyName,
    folder: Annotated[Path, typer.Argument(help="New folder to write.")],
    arm: Annotated[str | None, typer.Option(help="Arm; default: the best of the cut ones.")] = None,
    gguf: Annotated[bool, typer.Option(help="Also GGUF, by llama.cpp's converter.")] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the best trial by validation: adapter with its cut, and one dense checkpoint."""
    from pressft import progress
    from pressft.report import status

    locations = Locations(ROOT, storage)
    status.find(study, locations)
    with progress.reporter() as report:
        from pressft.export import export as write_export
        from pressft.export import to_gguf

        receipt = write_export(study, arm, folder, locations, report.setup)
        converted = to_gguf(folder) if gguf else ""
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(receipt), indent=2, default=str))
    else:
        typer.echo(
            f"{folder}: trial {receipt.trial} of arm {receipt.arm}, test perplexity "
            f"{receipt.perplexity:.4g}; read back from disk, logits within "
            f"{receipt.logit_difference:.1e} of the trained model's"
        )
    if converted:
        typer.echo(converted, err=True)


def run(as_json: Json = False, **settings: Any) -> None:  # noqa: ANN401  (TrialSpec's fields)
    """Run one trial: cut, train, score. The options are the fields of TrialSpec."""
    from pressft import progress
    from pressft.corpus import load

    spec = TrialSpec(**settings)
    load.check(spec.corpus)  # found missing before seconds of imports
    with progress.reporter() as report:
        from pressft.sweep import run_one

        outcome = run_one(spec, report, Locations(ROOT))
    _print_outcome(outcome, "run", as_json=as_json)


def scan(as_json: Json = False, **settings: Any) -> None:  # noqa: ANN401  (ScanSpec's fields)
    """Score the removal of every layer and half layer, untrained, in one pass over the text."""
    from pressft import progress
    from pressft.corpus import load
    from pressft.report import terminal

    spec = ScanSpec(**settings)
    load.check(spec.corpus)  # found missing before seconds of imports
    with progress.reporter() as report:
        from pressft.scan import load_and_scan

        found = load_and_scan(spec, report, Locations(ROOT))
    terminal.scan(found, as_json=as_json)


def _with_options_of(spec: type, function: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option a field of `spec`."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
    fields = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                field.type if isinstance(field.type, type) else str,
                typer.Option(help=field.metadata["help"]),
            ],
        )
        for field in dataclasses.fields(spec)
    ]
    function.__signature__ = inspect.Signature([*own, *fields])  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in [*own, *fields]}
    return function


app.command()(_with_options_of(TrialSpec, run))
app.command()(_with_options_of(ScanSpec, scan))


@app.command()
def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended, after a backup.")
    ] = False,
    rebuild_mlflow: Annotated[
        bool, typer.Option("--rebuild-mlflow", help="Rebuild the local MLflow store.")
    ] = False,
    storage: Storage = None,
    tracking_uri: Uri = None,
    as_json: Json = False,
) -> None:
    """Find where Optuna, MLflow and the files disagree, and mend it."""
    from pressft.doctor import backup, examine, mended, rebuild

    locations = Locations(ROOT, storage, tracking_uri)
    if not storage and not (ROOT / "optuna.db").is_file():
        raise UsageError(f"nothing has been run in {ROOT} yet: there is nothing to examine")
    if fix or rebuild_mlflow:
        typer.echo(f"backup: {backup(locations)}", err=True)
    if rebuild_mlflow:
        rebuild(locations, lambda line: typer.echo(line, err=True))
    faults = [(fault, fix and mended(fault)) for fault in examine(locations)]
    left = sum(not done for _, done in faults)
    if as_json:
        rows = [{"study": f.study, "fault": f.what, "mended": done} for f, done in faults]
        typer.echo(json.dumps(rows, indent=2))
    else:
        for fault, done in faults:
            hint = "" if fault.mend else " (only a sweep can help)"
            typer.echo(f"{fault.study}: {fault.what}{': mended' if done else hint}")
        typer.echo(f"{len(faults)} disagreements, {left} left")
    if left:
        raise typer.Exit(1)


@app.command()
def ui(
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port on 127.0.0.1; if it is in use, or 0, a free one is taken."
        ),
    ] = 5000,
    optuna: Annotated[bool, typer.Option("--optuna", help="Also serve optuna-dashboard.")] = False,
    storage: Storage = None,
) -> None:
    """Serve the MLflow UI on mlruns/ to this machine only; print the page of each study."""
    from pressft.tracking.ui import dashboard, mlflow, serve

    sites = [mlflow(ROOT, port)]
    if optuna and not storage and not (ROOT / "optuna.db").is_file():
        raise MissingError(f"no studies in {ROOT}: start with `pressft sweep experiments/smoke.py`")
    if optuna:
        sites.append(dashboard(Locations(ROOT, storage).storage, 0))
    serve(sites, typer.echo)


@app.command()
def demo(as_json: Json = False) -> None:
    """From a newsroom on loopback to a compared study: crawl, cut, train, score, all offline."""
    from pressft import progress

    with progress.reporter() as report:
        from pressft import sweep
        from pressft.demo.run import choose, crawl

        study, stories = choose(report)
    crawl(Path(study.base.corpus), stories)
    with progress.reporter() as report:
        outcome = sweep.run_sweep(study, report, Locations(ROOT))
    _print_outcome(outcome, study.name, as_json=as_json)


def main() -> None:
    """Run a command; a mistake of the user's is one line and its exit code."""
    gc.disable()  # until a model is loaded: a tenth to a quarter of the imports' time
    try:
        app()
    except PressftError as error:
        typer.echo(f"pressft: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Stopped as error:
        typer.echo(f"pressft: stopped by {error}; the same command resumes", err=True)
        sys.exit(error.code)


def _print_outcome(outcome: "Outcome", name: str, *, as_json: bool) -> None:
    from pressft.report import terminal

    terminal.finding(outcome.finding, as_json=as_json)
    typer.echo(f"{name}: {outcome}. Compare the runs with: pressft ui", err=True)
    if outcome.timed_out:
        typer.echo("the hours are over; the same command resumes", err=True)
    if outcome.failed:
        raise typer.Exit(1)
