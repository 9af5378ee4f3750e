"""The rooms import downwards only, and each outside world has one door."""

import ast
from pathlib import Path

import pytest

FLOORS = [
    {"errors"},
    {"scores", "spec", "assets", "charts", "markdown", "signals", "databases"}
    | {"checkpoints", "leases", "graphs", "heads", "lora", "norms"},
    {"design", "corpus", "tiny", "results", "intervals", "cuts", "material", "outbox", "storage"}
    | {"rows"},
    {"duplicates", "inventory", "newsroom", "surgery", "blocks", "models", "tracking", "planning"}
    | {"rungs", "stored"},
    {"invented", "wikipedia", "adapters", "scoring", "study", "arms", "sender", "ui"} | {"teller"},
    {"training", "runs", "console", "corpora", "status", "scan", "tables", "costs", "reading"},
    {"bench"},
    {"trial", "survey", "export", "show", "figures"},
    {"compare", "report", "disk", "forecast"},
    {"projection"},
    {"display"},
    {"attempts"},
    {"sweep", "workers", "doctor"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
DOORS = {
    "optuna": {"study", "storage", "stored", "planning"},
    "mlflow": {"tracking"},
    "peft": {"adapters", "lora", "training"},
    "bitsandbytes": {"models"},
    "scrapy": set(),
    "torch": {
        *("surgery", "models", "tiny", "adapters", "blocks", "graphs", "heads", "lora", "norms"),
        *("scoring", "training", "trial", "scan", "export", "costs", "reading", "teller"),
        "workers",
    },
}


def imports(file: Path) -> set[str]:
    """Full names of the modules that a file imports, those for types alone left out."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module in {"pressft", "crawler"}:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(project: Path) -> dict[str, set[str]]:
    files = [f for f in (project / "pressft").glob("*.py") if f.stem != "__init__"]
    return {file.stem: imports(file) for file in files}


def test_every_room_has_a_floor_and_imports_only_lower_ones(project: Path) -> None:
    floor = {room: level for level, names in enumerate(FLOORS) for room in names}
    found = rooms(project)
    assert set(found) == set(floor)
    for room, names in found.items():
        for name in names:
            if name.startswith("pressft."):
                assert floor[name.split(".")[1]] < floor[room], f"{room} imports {name}"


@pytest.mark.parametrize("package", sorted(DOORS))
def test_each_outside_world_has_its_doors(project: Path, package: str) -> None:
    users = {
        room
        for room, names in rooms(project).items()
        if any(name.split(".")[0] == package for name in names)
    }
    assert users <= DOORS[package]


def test_the_library_knows_neither_crawler_nor_experiments(project: Path) -> None:
    for room, names in rooms(project).items():
        assert not {n for n in names if n.split(".")[0] in {"crawler", "experiments"}}, room


def test_the_crawler_knows_the_corpus_alone(project: Path) -> None:
    for file in (project / "crawler").rglob("*.py"):
        of_ours = {name for name in imports(file) if name.startswith("pressft")}
        allowed = {"pressft", "pressft.corpus", "pressft.duplicates", "pressft.errors"}
        assert of_ours <= allowed, file


def test_experiments_are_data(project: Path) -> None:
    for file in (project / "experiments").glob("*.py"):
        assert imports(file) <= {"dataclasses", "pressft.design", "pressft.spec"}, file
        tree = ast.parse(file.read_text())
        assert not [
            n for n in ast.walk(tree) if isinstance(n, ast.For | ast.While | ast.FunctionDef)
        ]
