"""Every command: help, results on stdout, mistakes as one line with their exit code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from studies import fill, grid

from pressft import cli
from pressft.report import status
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.reader import Stored

COMMANDS = ["corpus", "scan", "run", "sweep", "status", "report", "export", "doctor", "ui", "demo"]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def pressft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command line in a folder of its own, in this process: torch loads in seconds."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["pressft", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capfd.readouterr()
        return Done(int(stop.value.code or 0), captured.out, captured.err)

    return run


def test_help_lists_every_command_without_heavy_imports() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pressft", "--help"], capture_output=True, text=True, check=True
    )
    for command in COMMANDS:
        assert f" {command} " in done.stdout
    code = (
        "import sys, pressft.cli; print({'torch', 'mlflow', 'optuna', 'pyarrow'} & {*sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(
    command: str, pressft: Run, project: Path
) -> None:
    assert pressft(command, "--help").code == 0
    assert f"pressft {command}" in (project / "README.md").read_text()


MISTAKES = [
    (("corpus", "nowhere"), 4, "no corpus folder nowhere: crawl one with `scrapy crawl press"),
    (("sweep", "nowhere.py"), 2, "nowhere.py: no such experiment file"),
    (("status", "nothing"), 2, "no study 'nothing'"),
    (("run", "--remove", "all"), 2, "remove 'all': choose none, first, middle, last"),
    (("run", "--rank", "0"), 2, "rank 0: choose at least 1"),
    (("run", "--model", "qwen", "--corpus", "invented"), 2, "model 'qwen': no such folder or"),
    (("run", "--model", "tiny-llama", "--corpus", "c"), 4, "no corpus folder c"),
    (("run", "--model", "tiny-llama", "--corpus", "invented", "--remove", "4"), 2, "layer 4 of a"),
    (("run", "--model", ".", "--corpus", "invented"), 4, "needs config.json and *.safetensors"),
    (("scan", "--corpus", "c"), 4, "no corpus folder c"),
    (("scan", "--corpus", "invented", "--window", "1"), 2, "window 1: choose at least 2"),
    (("scan", "--corpus", "invented", "--model", "qwen"), 2, "model 'qwen': no such folder"),
    (("export", "nothing", "out"), 2, "no study 'nothing'"),
    (("export", "nothing", "out", "--storage", "nonsense"), 5, "study storage cannot be used"),
    (("ui",), 5, "no runs in mlruns"),
    (("sweep", "folder"), 2, "folder: no such experiment file"),
    (("sweep", "raises.py"), 2, "raises.py does not run: ValueError: two lines"),
    (("sweep", "unclosed.py"), 2, "unclosed.py does not run: SyntaxError"),
    (("sweep", "nothing.py"), 2, "nothing.py: defines no STUDY"),
    (("corpus", "latin.txt"), 4, "no corpus folder latin.txt"),
    (("run", "--model", "tiny-llama", "--corpus", "latin.txt"), 4, "latin.txt: not UTF-8 text"),
    (("run", "--model", "tiny-llama", "--corpus", "short.txt"), 4, "more text is needed"),
    (("run", "--model", "tiny-lama", "--corpus", "invented"), 2, "did you mean 'tiny-llama'?"),
    (("run", "--learning-rate", "nan"), 2, "learning_rate nan: choose a number above 0"),
    (("run", "--remove", "3-1"), 2, "an empty range; write the lower index first"),
    (("run", "--mix", "2"), 2, "mix 2.0: choose 0 to 0.9"),
    (("report", "nothing", "-o", "x.pdf"), 2, "x.pdf: choose a name that ends in"),
    (("status", "nothing", "--storage", "sqlite:////no/x.db"), 5, "study storage"),
    (("status", "nothing", "--storage", "postgresql://me:secret@127.0.0.1:1/x"), 5, "refused"),
    (("doctor",), 2, "nothing has been run in mlruns yet"),
]
FILES = {
    "raises.py": b"raise ValueError('two\\nlines')",
    "unclosed.py": b"STUDY = (",
    "nothing.py": b"",
    "latin.txt": b"\xe9t\xe9\n\n" * 30,
    "short.txt": b"one paragraph",
}


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES)
def test_a_mistake_is_one_clear_line(
    arguments: Sequence[str], code: int, message: str, pressft: Run, tmp_path: Path
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    done = pressft(*arguments)
    assert done.code == code, done.err
    assert "secret" not in done.err
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("pressft: ")
    assert message in last
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not list(tmp_path.rglob("*.json"))  # nothing half written


def test_an_unknown_option_is_a_usage_error(pressft: Run) -> None:
    done = pressft("run", "--rnk", "4")
    assert done.code == 2
    assert "--rank" in done.err  # the name that was meant


def test_an_unknown_command_is_named_with_the_one_that_was_meant(pressft: Run) -> None:
    done = pressft("statsu", "x")
    assert done.code == 2
    assert "Did you mean 'status'?" in done.err


@pytest.fixture
def studied(tmp_path: Path) -> Path:
    """A folder with a study of which one trial is at work, and two are to come."""
    study, locations = grid(8), Locations(tmp_path / "mlruns")
    locations.root.mkdir()
    fill(study, locations, leave=3)
    ledger = Ledger(study, locations.storage, {"weights": "w", "corpus": "c"})
    trial = ledger.take()
    assert trial
    ledger.should_prune(trial, 128, 3.25)
    return tmp_path


@pytest.mark.usefixtures("studied")
def test_status_shows_the_table_and_the_trials_at_work(pressft: Run) -> None:
    done = pressft("status", "made")
    assert done.code == 0, done.err
    assert "middle" in done.out
    assert re.search(r"5 +first .* 128 of 256 +3\.250", done.out)
    assert done.out.rstrip().endswith("5 of 8 trials done")
    found = json.loads(pressft("status", "made", "--json").out)
    assert found["progress"] == "5 of 8 trials done"
    (running,) = found["running"]
    assert (running["arm"], running["tokens"], running["of"]) == ("first", 128, 256)
    assert running["loss"] == 3.25
    assert [arm["arm"] for arm in found["arms"]] == ["none", "first", "middle", "last"]


def test_status_is_watched_until_it_is_done(
    pressft: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locations = Locations(tmp_path / "mlruns")
    looks: list[str] = []
    locations.root.mkdir()
    fill(grid(8), locations, leave=1)

    find = status.find

    def look(study: str, locations: Locations) -> Stored:
        looks.append(study)
        if len(looks) == 3:
            fill(grid(8), locations)
        return find(study, locations)

    monkeypatch.setattr(status, "find", look)
    monkeypatch.setattr(cli, "WATCH_S", 0)
    done = pressft("status", "made", "--watch")
    assert done.code == 0, done.err
    assert len(looks) == 3
    assert "8 of 8 trials done" in done.out


def test_a_report_says_what_it_wrote(pressft: Run, studied: Path) -> None:
    assert pressft("report", "made").out.strip() == "made.html"
    found = json.loads(pressft("report", "made", "-o", "x.csv", "--json").out)
    assert found["file"] == "x.csv"
    assert found["best"] == "middle"
    assert (studied / "x.csv").read_text().startswith("arm,layers,trials,ended_early,")
    done = pressft("report", "mad")
    assert done.code == 2
    assert "did you mean 'made'?" in done.err
    assert pressft("report", "made", "-o", "no/x.csv").code == 5


def test_a_report_to_a_folder_is_figures_and_tables_for_a_paper(
    pressft: Run, studied: Path
) -> None:
    done = pressft("report", "made", "-o", "paper/first/")
    assert done.code == 0, done.err
    folder = studied / "paper" / "first"
    assert done.out.split() == [f"paper/first/{name}" for name in names(done.out)]
    assert {path.name for path in folder.iterdir()} == set(names(done.out))
    figures = ("training-loss", "validation-loss", "perplexity-by-removed-layer")
    expected = {f"{name}.{form}" for name in figures for form in ("svg", "pdf", "png")}
    assert expected | {"tables.md", "arms.csv"} <= set(names(done.out))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = json.loads(pressft("report", "made", "-o", "paper/first", "--json").out)
    assert again["file"] == "paper/first"  # it is a folder by now
    assert len(again["files"]) == len(before)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert before["tables.md"].startswith(b"Perplexity on the test split")
    assert before["training-loss.svg"].startswith(b"<?xml")
    assert before["training-loss.pdf"].startswith(b"%PDF")
    assert before["training-loss.png"].startswith(b"\x89PNG")


def names(out: str) -> list[str]:
    return [Path(line).name for line in out.split()]


def test_a_folder_that_cannot_be_written_is_told(pressft: Run, studied: Path) -> None:
    (studied / "file").write_text("")
    done = pressft("report", "made", "-o", "file/")
    assert (done.code, done.err.count("\n")) == (5, 1)
    assert "file: " in done.err
    assert pressft("report", "mad", "-o", "new/").code == 2
    assert not (studied / "new").exists()


@pytest.mark.parametrize(
    ("words", "completed"),
    [("pressft sta", "status"), ("pressft status ma", "made"), ("pressft run --ra", "--rank")],
)
def test_the_shell_completes_commands_options_and_studies(
    words: str, completed: str, studied: Path
) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", "from pressft.cli import app; app(prog_name='pressft')"],
        cwd=studied,
        env=os.environ | asked | {"_PRESSFT_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed in done.stdout.split(), done.stderr


def test_a_dry_run_prints_what_it_would_take_and_starts_nothing(
    pressft: Run, tmp_path: Path, project: Path
) -> None:
    file = str(project / "experiments" / "smoke.py")
    done = pressft("sweep", file, "--dry-run")
    assert done.code == 0
    assert done.out.count("remove=") == 8
    assert "smoke: 8 trials, 0 known; --measure says what the rest takes" in done.out
    measured = pressft("sweep", file, "--dry-run", "--measure")
    assert "smoke: 8 trials, 0 known; the rest takes about" in measured.out
    assert pressft("sweep", file, "--measure").code == 2
    asked = json.loads(pressft("sweep", file, "--dry-run", "--json").out)
    assert [cell["known"] for cell in asked["cells"]] == [False] * 8
    assert {arm["arm"]: arm["trials"] for arm in asked["arms"]} == dict.fromkeys(
        ("none", "first", "middle", "last"), 2
    )
    assert not list(tmp_path.iterdir())


def test_one_run_prints_json_and_is_known_the_second_time(pressft: Run, tmp_path: Path) -> None:
    settings = ["--model=tiny-llama", "--corpus=invented", "--tokens=1024", "--block=64"]
    settings += ["--batch=2", "--window=64", "--validation-tokens=500", "--remove=middle"]
    first = pressft("run", *settings, "--json")
    assert first.code == 0, first.err
    (arm,) = json.loads(first.out)["arms"]
    assert (arm["arm"], arm["layers"], arm["trials"]) == ("middle", [2], 1)
    assert arm["perplexity_trained"] < arm["perplexity_untrained"]
    assert "1 of 1 trials done, 1 trained now" in first.err
    again = pressft("run", *settings, "--json")
    assert again.out == first.out
    assert "0 trained now" in again.err
    assert (tmp_path / "mlruns" / "mlflow.db").is_file()


def test_a_scan_prints_every_layer_and_is_known_the_second_time(
    pressft: Run, tmp_path: Path
) -> None:
    settings = ["scan", "--model=tiny-qwen3", "--corpus=invented", "--tokens=900", "--block=2"]
    first = pressft(*settings, "--json")
    assert first.code == 0, first.err
    found = json.loads(first.out)
    assert [row["remove"] for row in found["layers"]] == ["0", "1", "2", "3"]
    assert set(found["layers"][0]) == {
        *{"remove", "perplexity", "influence", "angular_distance", "taylor"}
    }
    assert [row["remove"] for row in found["mlp"]] == [f"mlp:{i}" for i in range(4)]
    assert [row["remove"] for row in found["blocks"]] == ["0-1", "1-2", "2-3"]
    assert found["base"]["layers"] == 4
    assert set(found["rank_correlation"]) == {"influence", "angular_distance", "taylor"}
    assert pressft(*settings, "--json").out == first.out
    table = pressft(*settings).out
    assert "no attention" in table
    assert "rank correlation" in table
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    (experiment,) = client.search_experiments()
    (run,) = client.search_runs([experiment.experiment_id])
    curve = client.get_metric_history(run.info.run_id, "scan/perplexity")
    expected = {i: row["perplexity"] for i, row in enumerate(found["layers"])}
    assert {point.step: point.value for point in curve} == expected
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["scan.csv"]
