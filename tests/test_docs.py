"""What the documentation promises is there, and what is there is documented."""

import json
import re
from pathlib import Path

import pytest
import typer.main

from crawler import arguments
from pressft.cli import app
from pressft.corpus import invented
from pressft.demo import newsroom

EXPERIMENT = '''
"""Question: does the notebook run?"""

from pressft.study.study import Choices, Study
from pressft.spec import TrialSpec

BASE = TrialSpec(
    model="tiny-llama", corpus="corpora/made", tokens=256, batch=2, block=64, window=64,
    validation_tokens=200,
)
STUDY = Study("notebook", BASE, {"remove": Choices("none", "last")})
'''
SHELL = {"--install-completion", "--show-completion", "--help"}


def commands() -> dict[str, set[str]]:
    """Every command with the names of its options; `--no-x` only where x is the default."""
    group = typer.main.get_command(app)
    return {
        name: {
            option
            for param in command.params
            for option in (*param.opts, *(param.secondary_opts if param.default is True else ()))
            if option.startswith("-")
        }
        for name, command in group.commands.items()  # type: ignore[attr-defined]
        if not command.hidden
    }


def pages(project: Path) -> str:
    found = [project / "README.md", *sorted((project / "docs").glob("*.md"))]
    return "\n".join(path.read_text() for path in found)


def test_every_command_and_option_is_documented(project: Path) -> None:
    text = pages(project)
    missing = [name for name in commands() if f"pressft {name}" not in text]
    missing += [
        f"{name} {option}"
        for name, options in commands().items()
        for option in sorted(options)
        if not re.search(rf"(?<![\w-]){option}(?![\w-])", text)
    ]
    missing += [name for name in arguments._ARGUMENTS if f"-a {name}=" not in text]
    assert not missing


def test_every_documented_command_and_option_is_there(project: Path) -> None:
    text, known = pages(project), commands()
    named = {*re.findall(r"`(?:\.venv/bin/)?pressft ([a-z]+)", text)}
    named |= {*re.findall(r"^pressft ([a-z]+)", text, re.MULTILINE)}
    assert named - {"work"} <= set(known)
    ours = {option for options in known.values() for option in options} | SHELL
    lines = [line for line in text.splitlines() if "pressft " in line and "pip " not in line]
    for line in lines:
        for name, rest in re.findall(r"pressft ([a-z]+)([^`|#]*)", line):
            for option in re.findall(r"(?<!\S)(--?[a-z][\w-]*)", rest):
                assert option in (known.get(name, set()) | SHELL), line
    tables = re.findall(r"`(--[a-z][\w-]+)(?: [A-Z]+)?`", text)
    assert {option for option in tables if option not in ours} == set()


def test_links_between_pages_lead_somewhere(project: Path) -> None:
    for page in (project / "README.md", *(project / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", page.read_text()):
            name, _, heading = link.partition("#")
            target = page.parent / name
            assert target.exists(), f"{page.name}: {link}"
            if heading:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                slugs = {
                    re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
                }
                assert heading in slugs, f"{page.name}: {link}"


def test_the_modules_that_the_pages_name_are_there(project: Path) -> None:
    text = (project / "docs" / "method.md").read_text()
    named = re.findall(r"`([a-z_]+/[a-z_]+)`", text)
    assert len(named) > 3
    assert [name for name in named if not (project / "pressft" / f"{name}.py").is_file()] == []
    rows = re.findall(r"^\| `([a-z]+)/`", (project / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    folders = {p.parent.name for p in (project / "pressft").glob("*/__init__.py")}
    assert folders - {"demo"} <= set(rows)


def test_the_readme_is_short(project: Path) -> None:
    assert len((project / "README.md").read_text().splitlines()) <= 250


@pytest.mark.whole
def test_the_notebook_runs_on_a_tiny_model(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = json.loads((project / "docs" / "colab.ipynb").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(project))
    (tmp_path / "scrapy.cfg").write_text((project / "scrapy.cfg").read_text())
    (tmp_path / "small.py").write_text(EXPERIMENT)
    names: dict[str, object] = {}
    with newsroom.serve(invented.stories()[:60]) as site:
        for cell in notebook["cells"]:
            tags = cell["metadata"].get("tags", [])
            if cell["cell_type"] != "code" or "install" in tags:
                continue
            exec("".join(cell["source"]), names)
            if "parameters" in tags:
                settings = {"PRESS_ALLOW_PRIVATE": "True", "DOWNLOAD_DELAY": "0"}
                names |= {"EXPERIMENT": "small.py", "FEED": site.feed_url, "SETTINGS": settings}
                names["CORPUS"] = "corpora/made"
    assert "2 of 2 trials done" in (tmp_path / "report.html").read_text()
