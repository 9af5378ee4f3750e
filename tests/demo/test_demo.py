"""The demo where nothing can be fetched: crawl, study and table all the same, on a tiny model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PRESSFT_CACHE": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "pressft", "demo"],
        cwd=folder,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.whole
def test_the_demo_goes_on_where_nothing_can_be_fetched(tmp_path: Path) -> None:
    first = demo(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "Continuing with invented stories and a tiny random model." in first.stderr
    assert "4 of 4 trials done, 4 trained now" in first.stderr
    for arm, layer in {"none": "whole", "first": "0", "middle": "2", "last": "3"}.items():
        assert re.search(rf"^ {arm} .*\n \({layer}\) ", first.stdout, re.MULTILINE)
    assert "whole model, trained:" in first.stdout
    again = demo(tmp_path)
    assert again.stdout == first.stdout
    assert "0 trained now" in again.stderr
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    (experiment,) = client.search_experiments()
    runs = client.search_runs([experiment.experiment_id], "tags.arm != 'summary'")
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) >= 10
        assert len(client.get_metric_history(run.info.run_id, "eval/loss")) >= 4


@pytest.mark.slow
def test_the_demo_on_the_real_model_scores_what_it_should(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pressft", "demo"], cwd=tmp_path, check=False, timeout=1500
    )
    assert done.returncode == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id], "tags.arm != 'summary'")
    metrics = {run.data.tags["arm"]: run.data.metrics for run in runs}
    untrained = {arm: found["test/perplexity_untrained"] for arm, found in metrics.items()}
    assert 30 < untrained["none"] < 60
    assert untrained["first"] > 1000
    assert untrained["last"] > 3 * untrained["none"]
    assert metrics["none"]["test/perplexity"] < untrained["none"]
