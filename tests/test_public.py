"""What `import pressft` gives, and that it gives it without loading the libraries behind it."""

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from listening import TINY

import pressft
from pressft.errors import DataError, RefusedError, UsageError
from pressft.export import export
from pressft.study.locations import Locations
from pressft.study.results import Store

HEAVY = {"torch", "transformers", "optuna", "mlflow", "pandas", "matplotlib"}
ARMS = ("none", "first", "last")
STUDY = pressft.Study(
    "public", TINY, {"remove": pressft.Choices(*ARMS), "tokens": pressft.Choices(512, 1024)}
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("public") / "mlruns"
    assert pressft.run_sweep(STUDY, root=root).trained == 6
    return root


def test_importing_loads_nothing_heavy_and_dir_lists_every_name() -> None:
    code = "import sys, pressft; print({*pressft.__all__} <= {*dir(pressft)}, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, *modules = done.stdout.split()
    assert listed == "True"
    assert not HEAVY & {*modules}


def test_every_public_name_is_there_and_no_module_bears_it() -> None:
    for name in pressft.__all__:
        assert getattr(pressft, name).__doc__, name
    files = {path.stem for path in Path(str(pressft.__file__)).parent.iterdir()}
    assert not files & {*pressft.__all__}
    assert set(pressft._HOMES) | {"run_sweep", "run_trial"} == set(pressft.__all__)
    with pytest.raises(AttributeError, match="no attribute 'run_sweeps'"):
        _ = pressft.run_sweeps  # type: ignore[attr-defined]


def test_the_readme_names_what_is_public_and_nothing_else(project: Path) -> None:
    section = page(project)
    for name in pressft.__all__:
        assert re.search(rf"pressft\.{name}\b|`{name}`|\ba {name}\b", section), name
    assert {*re.findall(r"\bpressft\.(\w+)", section)} <= {*pressft.__all__}


def test_the_python_of_the_readme_runs(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", page(project), re.DOTALL)
    names: dict[str, object] = {}
    exec(small(first), names)
    assert [arm.arm for arm in pressft.finding("which-layer").arms] == ["none", "middle"]
    locations = Locations(Path("mlruns"))
    export("which-layer", None, Path("exported"), locations, lambda *_: None)
    exec(second, names | {"pressft": pressft})


def page(project: Path) -> str:
    """The section of the README on Python."""
    return (project / "README.md").read_text().partition("### From Python")[2].partition("\n###")[0]


def small(code: str) -> str:
    """The code with a tiny model and little text in the place of real ones."""
    for name, stand_in in {
        "smollm2-135m": "tiny-llama",
        "corpora/bmw": "invented",
        "12-15": "1-2",
        "14)": "1)",
        "50_000": "256, batch=2, block=64, window=64, validation_tokens=200",
    }.items():
        assert name in code
        code = code.replace(name, stand_in)
    return code


def test_a_text_has_the_same_score_in_one_piece_of_work_or_in_two() -> None:
    base = pressft.load_model("tiny-llama")
    both = pressft.perplexity(base, ["The harbour opens.", "A tram runs."])
    apart = [pressft.perplexity(base, text) for text in ("The harbour opens.", "A tram runs.")]
    assert both.nats == pytest.approx(sum(score.nats for score in apart))
    assert both.bytes == len("The harbour opens.A tram runs.")
    with pressft.removed(base.model, "last"):
        assert pressft.perplexity(base, "A tram runs.").nats != apart[1].nats
    assert pressft.perplexity(base, "A tram runs.") == apart[1]
    with pytest.raises(DataError, match="give at least one"):
        pressft.perplexity(base, [])


def test_a_scan_is_kept_only_where_a_root_is_given(tmp_path: Path) -> None:
    base, corpus = pressft.load_model("tiny-llama"), pressft.load_corpus("invented")
    settings = {"tokens": 200, "window": 64, "halves": False}
    loose = pressft.run_scan(base, corpus, **settings)
    assert not list(tmp_path.iterdir())
    kept = pressft.run_scan(base, corpus, **settings, root=tmp_path)
    assert kept == dataclasses.replace(loose, made=kept.made)
    assert pressft.run_scan(base, corpus, **settings, root=tmp_path).made == kept.made
    with pressft.removed(base.model, 1):  # its result would be kept under the name of the whole
        assert pressft.run_scan(base, corpus, **settings).n_layers == base.n_layers
        with pytest.raises(UsageError, match="tiny-llama is cut already"):
            pressft.run_scan(base, corpus, **settings, root=tmp_path)
    assert pressft.run_scan(base, corpus, **settings, root=tmp_path).base == kept.base


def test_trials_are_a_table_with_the_scores_of_their_results(root: Path) -> None:
    table = pressft.trials("public", root)
    assert list(table["number"]) == list(range(6))
    assert set(table["state"]) == {"complete"}
    assert set(table["arm"]) == set(ARMS)
    assert set(table["tokens"]) == {512, 1024}
    for row in table.to_dict("records"):
        result = Store(root).known(row["cell"])
        assert row["perplexity"] == result.test_score.perplexity
        assert row["validation_loss"] == result.validation.loss
        assert row["perplexity_low"] < row["perplexity"] < row["perplexity_high"]
        assert row["trained_tokens"] == row["tokens"]
        assert math.isnan(row["share_healed"]) == (row["arm"] == "none")


def test_a_trial_that_did_not_end_well_has_its_reason_in_the_table(tmp_path: Path) -> None:
    spec = dataclasses.replace(TINY, learning_rate=1e30)
    with pytest.raises(pressft.PressftError, match="the trial failed: loss"):
        pressft.run_trial(spec, root=tmp_path)


def test_arms_are_the_finding_as_a_table(root: Path) -> None:
    found, table = pressft.finding("public", root), pressft.arms("public", root)
    assert list(table["arm"]) == [arm.arm for arm in found.arms]
    assert list(table["layers"]) == ["", "0", "3"]
    for arm, row in zip(found.arms, table.to_dict("records"), strict=True):
        assert arm.trained is not None
        assert row["perplexity_low"] == arm.trained.perplexity.interval.low
        assert row["perplexity_trained"] == arm.trained.score.perplexity
        if arm.trained.ratio:
            assert row["ratio_high"] == arm.trained.ratio.interval.high
    assert pandas.isna(table["ratio_low"][0])


def test_run_trial_gives_the_result_and_knows_it_the_second_time(tmp_path: Path) -> None:
    spec = dataclasses.replace(TINY, remove="middle", tokens=512)
    first = pressft.run_trial(spec, root=tmp_path)
    assert first.removal.layers == (2,)
    assert pressft.run_trial(spec, root=tmp_path) == first


def test_a_loaded_adapter_is_the_model_that_was_trained(root: Path) -> None:
    table = pressft.trials("public", root)
    cell = str(table[table["arm"] == "first"]["cell"].iloc[0])
    folder = Store(root).folder(cell) / "adapter"
    model, tokenizer = pressft.load_adapter(folder)
    base = dataclasses.replace(pressft.load_model("tiny-llama"), model=model, tokenizer=tokenizer)
    assert model.config.num_hidden_layers == 3
    texts = [article.text for article in pressft.load_corpus("invented").splits.test]
    trained = Store(root).known(cell).test_score
    assert pressft.perplexity(base, texts, TINY.window).loss == pytest.approx(trained.loss)
    with torch.inference_mode():
        ids = torch.tensor([tokenizer("A tram runs.")["input_ids"]])
        assert model.generate(input_ids=ids, max_new_tokens=3).shape[1] > ids.shape[1]


def test_an_adapter_without_its_cut_or_of_another_base_is_refused(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"holds no removal.json: give the folder adapter/"):
        pressft.load_adapter(tmp_path)
    cell = str(pressft.trials("public", root)["cell"][0])
    text = (Store(root).folder(cell) / "adapter" / "removal.json").read_text()
    identity = pressft.load_model("tiny-llama").identity
    (tmp_path / "removal.json").write_text(text.replace(identity, "another"))
    with pytest.raises(RefusedError, match="trained on tiny-llama another; the weights of that"):
        pressft.load_adapter(tmp_path)


def test_an_unknown_study_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no study 'else'"):
        pressft.trials("else", root)
    with pytest.raises(UsageError, match="nothing has been run"):
        pressft.arms("public", tmp_path)
