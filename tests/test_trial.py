"""One trial on a tiny model: equal chances, the base as it was, results that read back."""

import copy
import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from listening import TINY as SPEC
from states import fingerprint
from transformers import AutoModelForCausalLM

from pressft import trial
from pressft.context import N_SAMPLES, Context, prepare, training_data
from pressft.corpus import invented
from pressft.errors import DataError, RefusedError
from pressft.evaluation import perplexity
from pressft.model import adapter, surgery
from pressft.model.base import Base
from pressft.score import total
from pressft.study.results import Store, TrialResult
from pressft.training import packing
from pressft.training.loop import Step


def nobody(*_: object) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return prepare(SPEC, Store(tmp_path_factory.mktemp("mlruns")), nobody)


@pytest.fixture(scope="module")
def results(context: Context) -> dict[str, TrialResult]:
    specs = {arm: dataclasses.replace(SPEC, remove=arm) for arm in ("none", "first", "last")}
    return {arm: trial.run_trial(context, spec) for arm, spec in specs.items()}


def test_law_2_a_trial_leaves_the_base_as_it_was(context: Context) -> None:
    before = fingerprint(context.base.model)
    trial.run_trial(context, dataclasses.replace(SPEC, remove="1", rank=3))
    trial.untrained(context, dataclasses.replace(SPEC, remove="2"), nobody)
    assert fingerprint(context.base.model) == before


def test_a_trial_that_diverges_tells_its_last_point_and_leaves_the_base_as_it_was(
    context: Context,
) -> None:
    before = fingerprint(context.base.model)
    spec = dataclasses.replace(SPEC, learning_rate=1e30)
    seen: list[Step] = []
    with pytest.raises(trial.DivergedError, match=r"loss \w+ after [\d,]+ tokens: choose a lower"):
        seen += trial.steps(context, spec)
    assert [step.diverged for step in seen] == [False] * (len(seen) - 1) + [True]
    assert fingerprint(context.base.model) == before
    assert context.store.trial(context.cell(spec)) is None


def test_law_2_a_trial_that_is_left_leaves_the_base_as_it_was(context: Context) -> None:
    before = fingerprint(context.base.model)
    with closing(trial.steps(context, dataclasses.replace(SPEC, remove="1"))) as steps:
        assert [next(steps).number, next(steps).number] == [1, 2]
        assert fingerprint(context.base.model) != before
    assert fingerprint(context.base.model) == before


def test_law_7_all_arms_and_ranks_train_on_the_same_tokens(
    context: Context, results: dict[str, TrialResult]
) -> None:
    assert len({result.data for result in results.values()}) == 1
    assert {result.tokens for result in results.values()} == {2048}
    wider = dataclasses.replace(SPEC, rank=16, learning_rate=1e-4)
    assert training_data(context, wider).digest == results["none"].data
    other = dataclasses.replace(SPEC, seed=1)
    assert training_data(context, other).digest != results["none"].data


def test_numbers_of_another_type_are_of_another_cell(
    context: Context, load: Callable[..., Base]
) -> None:
    """What a GPU computed in bfloat16 answers no question on a CPU."""
    rounded = copy.deepcopy(load("tiny-llama", "none").model).to(torch.bfloat16)
    other = dataclasses.replace(context, base=dataclasses.replace(context.base, model=rounded))
    assert other.base.identity == context.base.identity
    assert other.cell(SPEC) != context.cell(SPEC)
    assert trial.untrained_key(other, SPEC) != trial.untrained_key(context, SPEC)


def test_law_8_a_result_reads_back_as_it_was(
    context: Context, results: dict[str, TrialResult]
) -> None:
    for arm, result in results.items():
        assert context.cell(dataclasses.replace(SPEC, remove=arm)) == result.cell
        assert context.store.trial(result.cell) == result
    last = dataclasses.replace(SPEC, remove="last")
    assert context.cell(last) == context.cell(dataclasses.replace(SPEC, remove="3"))
    assert context.store.trial("0" * 16) is None


def test_law_8_an_untrained_cut_is_scored_once(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(SPEC, remove="first")
    first = trial.untrained(context, spec, nobody)
    monkeypatch.delattr("pressft.evaluation.perplexity.score")
    assert trial.untrained(context, dataclasses.replace(spec, rank=9), nobody) == first


def test_a_test_score_covers_every_test_document(
    context: Context, results: dict[str, TrialResult]
) -> None:
    articles = context.text.corpus.splits.test
    for result in results.values():
        sizes = [len(article.text.encode()) for article in articles]
        assert [score.bytes for score in result.test] == sizes
        assert result.test_score.tokens == sum(sizes)  # one token a byte


def test_the_saved_adapter_gives_the_scores_of_the_result(
    context: Context, results: dict[str, TrialResult], load: Callable[..., Base]
) -> None:
    result, base = results["first"], load("tiny-llama")
    with surgery.removed(base.model, [0]) as removal:
        folder = context.store.folder(result.cell) / "adapter"
        model = adapter.load(base.model, removal, base.identity, folder)
        test = trial.perplexity.score(
            model, context.text.test, context.separators.before, SPEC.window
        )
        model.unload()
        base.model.__dict__.pop("peft_config", None)
    assert total(test).nats == pytest.approx(result.test_score.nats, rel=1e-6)


def test_training_on_text_makes_the_text_likelier(
    context: Context, results: dict[str, TrialResult]
) -> None:
    for arm, result in results.items():
        before = total(trial.untrained(context, dataclasses.replace(SPEC, remove=arm), nobody).test)
        assert result.test_score.perplexity < before.perplexity
        assert len(result.samples) == N_SAMPLES


def test_law_3_a_cut_base_saved_by_us_is_a_plain_model(
    context: Context, ids: torch.Tensor, tmp_path: Path
) -> None:
    with surgery.removed(context.base.model, [1, 2]):
        context.base.model.save_pretrained(tmp_path)
        logits = context.base.model(ids).logits
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, logits)


def test_a_corpus_too_small_for_a_block_is_refused(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, block=10**6, tokens=1)
    with pytest.raises(DataError, match="less than one block of 1000000: crawl more text"):
        prepare(spec, Store(tmp_path), nobody)


def test_the_validation_subset_is_a_fixed_beginning(context: Context) -> None:
    def subset(room: int) -> tuple[object, ...]:
        return context.validation_subset(dataclasses.replace(SPEC, validation_tokens=room))

    assert len(subset(1)) == 1
    assert subset(10**9) == context.text.validation
    assert subset(1000) == context.text.validation[: len(subset(1000))]
    assert sum(len(d.ids) for d in context.validation_subset(SPEC)) <= 1000


def test_the_invented_corpus_is_the_same_everywhere() -> None:
    # golden: the fingerprint names the cells that users keep
    assert invented.corpus().fingerprint.startswith("20528d3c5513a920")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A bench with a general text of sixty paragraphs."""
    folder = tmp_path_factory.mktemp("general")
    lines = [f"Note {i} of the harbour: {i * i} boats lay still while snow fell" for i in range(60)]
    (folder / "general.txt").write_text("\n\n".join(lines))
    spec = dataclasses.replace(SPEC, general=str(folder / "general.txt"), mix=0.25)
    return prepare(spec, Store(folder / "mlruns"), nobody)


def test_general_text_is_scored_before_and_after(mixed: Context) -> None:
    spec = dataclasses.replace(SPEC, general="named", validation_tokens=600)
    assert mixed.general is not None
    held_out = mixed.general_subset(spec)
    assert 0 < sum(len(document.ids) for document in held_out) <= 600
    assert not any(document in mixed.general.train for document in held_out)
    before = trial.untrained(mixed, spec, nobody)
    after = trial.run_trial(mixed, spec)
    alone = perplexity.score(mixed.base.model, held_out, mixed.separators.before, spec.window)
    assert [score.tokens for score in before.general] == [len(d.ids) for d in held_out]
    assert total(before.general).nats == pytest.approx(total(alone).nats, rel=1e-5)
    assert total(after.general).loss != total(before.general).loss
    assert mixed.store.trial(after.cell) == after
    assert mixed.store.untrained(trial.untrained_key(mixed, spec)) == before


def test_a_mix_takes_its_share_of_the_budget_from_general_text(mixed: Context) -> None:
    spec = dataclasses.replace(SPEC, general="named")
    blended = dataclasses.replace(spec, mix=0.25)
    own, both = training_data(mixed, spec), training_data(mixed, blended)
    assert len(own.rows) == len(both.rows) == spec.steps * spec.batch == 32
    assert mixed.general is not None
    other = packing.pack(mixed.general.train, spec.block, mixed.separators).tolist()
    general = torch.tensor([row in other for row in both.rows.tolist()])
    assert general.sum() == 8
    assert 0 < general[:16].sum() < 8  # spread, not in one piece
    assert torch.equal(both.rows[~general], own.rows[:24])  # the others as they would come
    assert training_data(mixed, blended).digest == both.digest
    assert mixed.cell(spec) != mixed.cell(blended)


def test_a_cell_with_general_text_is_another_cell(context: Context, mixed: Context) -> None:
    spec = dataclasses.replace(SPEC, general="named")
    assert mixed.cell(spec) == mixed.cell(dataclasses.replace(spec, general="other-name"))
    assert mixed.cell(spec) != context.cell(SPEC)
    assert trial.untrained_key(mixed, spec) != trial.untrained_key(context, SPEC)


def test_what_cannot_be_repaired_costs_no_look_at_the_text(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial.repair, "gaps", None)
    for remove in ("none", "mlp:1"):
        with trial.cut(
            context, dataclasses.replace(SPEC, remove=remove, repair="scale")
        ) as removal:
            assert removal.scales == ()


def test_a_repair_scales_what_a_cut_leaves(context: Context) -> None:
    spec = dataclasses.replace(SPEC, remove="1", repair="scale")
    with trial.cut(context, spec) as removal:
        assert len(removal.scales) == 1
        assert removal.scales[0] != 1
    plain = dataclasses.replace(spec, repair="none")
    assert trial.untrained_key(context, spec) != trial.untrained_key(context, plain)
    before = trial.untrained(context, spec, nobody)
    assert total(before.test) != total(trial.untrained(context, plain, nobody).test)
    result = trial.run_trial(context, spec)
    assert context.store.trial(result.cell) == result
    assert result.removal == removal
    folder = context.store.folder(result.cell) / "adapter"
    identity = context.base.identity
    with (
        trial.cut(context, spec) as again,
        adapter.loaded(context.base.model, again, identity, folder) as healed,
    ):
        scores = perplexity.score(healed, context.text.test, context.separators.before, spec.window)
    assert total(scores).nats == pytest.approx(result.test_score.nats, rel=1e-6)
    with (
        surgery.removed(context.base.model, [1]) as other,
        pytest.raises(RefusedError, match="scaled by"),
    ):
        adapter.load(context.base.model, other, identity, folder)
