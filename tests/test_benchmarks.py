"""Every benchmark runs, on the tiny model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ON_A_GPU = {
    "step.py": "--model smollm2-135m --rounds 3",
    "study.py": "--model smollm2-135m --corpus wikipedia --tokens 65536 --batch 8 --block 256 "
    "--rates 4",
}
FILES = sorted((Path(__file__).resolve().parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.bench
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_benchmark_prints_its_ratio_and_stands_in_the_table(file: Path) -> None:
    command = [sys.executable, str(file), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert re.search(r"ratio \d+\.\d\d", done.stdout)
    assert f"benchmarks/{file.name}" in (file.parent / "README.md").read_text()


@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ON_A_GPU)
def test_a_benchmark_gives_a_line_for_the_table_on_cuda(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    file = FILES[0].parent / name
    command = [sys.executable, str(file), *ON_A_GPU[name].split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    with capfd.disabled():
        sys.stdout.write(f"\n{done.stdout}")
    assert re.search(r"ratio \d+\.\d\d", done.stdout)
