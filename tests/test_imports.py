"""What the import contracts of pyproject.toml cannot say: experiments are data."""

import ast
from pathlib import Path


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


def test_experiments_are_data(project: Path) -> None:
    for file in (project / "experiments").glob("*.py"):
        assert imports(file) <= {"dataclasses", "pressft.study.study", "pressft.spec"}, file
        tree = ast.parse(file.read_text())
        assert not [
            n for n in ast.walk(tree) if isinstance(n, ast.For | ast.While | ast.FunctionDef)
        ]
