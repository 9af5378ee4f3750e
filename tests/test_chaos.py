"""Laws 8 to 10 under kills, restarts and outages, in a process that has not trained itself."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.whole
def test_laws_8_to_10_nothing_is_lost_doubled_or_different_in_chaos() -> None:
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), "--short"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
    zeros = [line for line in done.stdout.splitlines() if line.startswith("| **")]
    assert len(zeros) == 5
    assert all(line.endswith("** | 0 |") for line in zeros)
