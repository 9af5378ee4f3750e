"""Trials train as they did by transformers' Trainer: `golden.json` says how it was made."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from listening import TINY

from pressft import trial
from pressft.context import prepare
from pressft.model.fused import loss
from pressft.score import total
from pressft.study.results import Store

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())["trials"]
ROUNDING = 1e-4  # on this machine 0 to 1e-6; processors add in other orders


def nobody(*_: object) -> None:
    """Tell nobody."""


@pytest.mark.parametrize("name", GOLDEN)
def test_a_trial_has_the_curve_that_trainer_gave_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden: dict[str, Any] = GOLDEN[name]
    spec = dataclasses.replace(TINY, **golden["changes"])
    if name == "the model's own loss":
        monkeypatch.setattr(loss, "of", lambda _: None)
    result = trial.run_trial(prepare(spec, Store(tmp_path), nobody), spec)
    points = [(at, metrics) for at, metrics, _ in result.curve if "train/loss" in metrics]
    scores = [
        (at, metrics["eval/loss"]) for at, metrics, _ in result.curve if "eval/loss" in metrics
    ]
    assert [at for at, _ in points] == golden["tokens"]
    assert [at for at, _ in scores] == golden["validated"]
    rates = [metrics["train/learning_rate"] for _, metrics in points]
    assert rates == pytest.approx(golden["train/learning_rate"], rel=1e-12)
    for key in ("train/loss", "train/grad_norm"):
        assert [m[key] for _, m in points] == pytest.approx(golden[key], rel=ROUNDING), key
    assert [nats for _, nats in scores] == pytest.approx(golden["eval/loss"], rel=ROUNDING)
    assert result.validation.nats == pytest.approx(golden["validation nats"], rel=ROUNDING)
    assert total(result.test).nats == pytest.approx(golden["test nats"], rel=ROUNDING)
