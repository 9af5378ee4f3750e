"""What the import contracts of pyproject.toml cannot say: experiments are data."""

import ast
from pathlib import Path

import pressft


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


def test_experiments_are_data_made_of_the_public_names(project: Path) -> None:
    public = {f"pressft.{name}" for name in pressft.__all__}
    for file in (project / "experiments").glob("*.py"):
        assert imports(file) <= {"dataclasses", "pressft"} | public, file
        tree = ast.parse(file.read_text())
        assert not [
            n for n in ast.walk(tree) if isinstance(n, ast.For | ast.While | ast.FunctionDef)
        ]
