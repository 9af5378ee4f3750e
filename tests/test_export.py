"""An exported checkpoint is the trained model, to a process that has only transformers."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from listening import TINY, Listener

from pressft import export, sweep
from pressft.errors import RefusedError, UsageError
from pressft.report import status
from pressft.study.locations import Locations
from pressft.study.study import Choices, Study

BASE = dataclasses.replace(TINY, rank=4)
ARMS = {"none": 4, "middle": 3, "mlp:1,0": 3, "attention:0": 4}  # and the layers that are left
PLAIN = """
import json, sys, torch, transformers
assert "pressft" not in sys.modules and "peft" not in sys.modules
for folder in sys.argv[1:]:
    promise = json.load(open(folder + "/promise.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder + "/model")
    logits = model(torch.tensor([promise["input_ids"]])).logits[0, -1]
    print(float((logits - torch.tensor(promise["last_logits"])).abs().max()))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder + "/model")
    print(model.config.num_hidden_layers, tokenizer.decode(tokenizer("A tram.")["input_ids"]))
"""


def quiet(*_: object) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def locations(tmp_path_factory: pytest.TempPathFactory) -> Locations:
    made = Locations(tmp_path_factory.mktemp("export") / "mlruns")
    sweep.run_sweep(Study("cuts", BASE, {"remove": Choices(*ARMS)}), Listener(), made)
    return made


def test_law_3_an_export_is_the_trained_model_in_plain_transformers(
    locations: Locations, tmp_path: Path
) -> None:
    for arm in ARMS:
        exported(locations, arm, tmp_path / arm)
    folders = [str(tmp_path / arm) for arm in ARMS]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *folders], capture_output=True, text=True, check=True
    )
    lines = done.stdout.strip().splitlines()
    for arm, apart, shape in zip(ARMS, lines[::2], lines[1::2], strict=True):
        assert float(apart) < 1e-3, arm
        assert shape == f"{ARMS[arm]} A tram.", arm


def exported(locations: Locations, arm: str, folder: Path) -> None:
    """Export an arm, and look at all that is written beside the weights."""
    receipt = export.export("cuts", arm, folder, locations, quiet)
    (row,) = [row for row in status.finding("cuts", locations).arms if row.arm == arm]
    assert row.trained is not None
    assert receipt.folder == folder
    assert receipt.perplexity == pytest.approx(row.trained.score.perplexity, rel=1e-4)
    removal = json.loads((folder / "adapter" / "removal.json").read_text())
    assert removal["parts"] == list(row.parts)
    text = (folder / "README.md").read_text()
    for fact in (status.find("cuts", locations).corpus, "rank 4", "licence of the base", "95%"):
        assert fact in text


def test_without_an_arm_the_best_cut_one_by_validation_is_taken(
    locations: Locations, tmp_path: Path
) -> None:
    receipt = export.export("cuts", None, tmp_path / "out", locations, quiet)
    rows = status.find("cuts", locations).trials
    cut = [row for row in rows if row.arm != "none"]
    assert receipt.trial == min(cut, key=lambda row: row.value or math.inf).number


@pytest.mark.parametrize(
    ("study", "arm", "message"),
    [
        ("cuts", "last", "no finished trial of arm 'last'; finished: none, middle"),
        ("cut", None, "no study"),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    locations: Locations, study: str, arm: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        export.export(study, arm, tmp_path / "out", locations, quiet)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(locations: Locations, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RefusedError, match="exists and holds something"):
        export.export("cuts", None, tmp_path, locations, quiet)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_a_checkpoint_that_breaks_the_promise_is_refused_and_nothing_is_left(
    locations: Locations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = status.by_arm(status.find("cuts", locations).trials, export.Store(locations.root))[
        "middle"
    ][0]
    better = tuple(dataclasses.replace(s, nats=0.9 * s.nats) for s in best.result.test)
    promised = dataclasses.replace(best.result, test=better)
    other = dataclasses.replace(best, read=lambda: promised)
    monkeypatch.setattr(export, "_best", lambda *_: other)
    with pytest.raises(RefusedError, match="the checkpoint is another model: logits"):
        export.export("cuts", "middle", tmp_path / "out", locations, quiet)
    assert not list(tmp_path.iterdir())


def test_without_the_converter_a_clear_word_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert "convert_hf_to_gguf.py of llama.cpp is not on the PATH" in export.to_gguf(tmp_path)
