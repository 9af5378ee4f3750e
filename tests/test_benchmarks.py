"""Every benchmark runs, on the tiny model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).resolve().parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.bench
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_benchmark_prints_its_ratio_and_stands_in_the_table(file: Path) -> None:
    command = [sys.executable, str(file), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert re.search(r"ratio \d+\.\d\d", done.stdout)
    assert f"benchmarks/{file.name}" in (file.parent / "README.md").read_text()
