"""One trial on a tiny model: equal chances, the base as it was, results that read back."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from states import fingerprint
from transformers import AutoModelForCausalLM

from pressft import adapters, invented, surgery, trial
from pressft import arms as tables
from pressft.arms import Done, arms, cells, choose
from pressft.errors import DataError
from pressft.models import Base
from pressft.results import Store, TrialResult, Untrained
from pressft.scores import Score, total
from pressft.spec import Removal, TrialSpec
from pressft.trial import Bench

SPEC = TrialSpec(
    model="tiny-llama",
    corpus="invented",
    rank=2,
    learning_rate=5e-3,
    tokens=2048,
    batch=4,
    block=64,
    window=128,
    validation_tokens=1000,
)


def nobody(*_: object) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return trial.prepare(SPEC, Store(tmp_path_factory.mktemp("mlruns")), nobody)


@pytest.fixture(scope="module")
def results(bench: Bench) -> dict[str, TrialResult]:
    specs = {arm: dataclasses.replace(SPEC, remove=arm) for arm in ("none", "first", "last")}
    return {arm: trial.run_trial(bench, spec, nobody, nobody) for arm, spec in specs.items()}


def test_law_2_a_trial_leaves_the_base_as_it_was(bench: Bench) -> None:
    before = fingerprint(bench.base.model)
    trial.run_trial(bench, dataclasses.replace(SPEC, remove="1", rank=3), nobody, nobody)
    trial.untrained(bench, dataclasses.replace(SPEC, remove="2"), nobody)
    assert fingerprint(bench.base.model) == before


def test_law_7_all_arms_and_ranks_train_on_the_same_tokens(
    bench: Bench, results: dict[str, TrialResult]
) -> None:
    assert len({result.data for result in results.values()}) == 1
    assert {result.tokens for result in results.values()} == {2048}
    wider = dataclasses.replace(SPEC, rank=16, learning_rate=1e-4)
    assert trial.training_data(bench, wider).digest == results["none"].data
    other = dataclasses.replace(SPEC, seed=1)
    assert trial.training_data(bench, other).digest != results["none"].data


def test_law_8_a_result_reads_back_as_it_was(bench: Bench, results: dict[str, TrialResult]) -> None:
    for arm, result in results.items():
        assert bench.cell(dataclasses.replace(SPEC, remove=arm)) == result.cell
        assert bench.store.trial(result.cell) == result
    last = dataclasses.replace(SPEC, remove="last")
    assert bench.cell(last) == bench.cell(dataclasses.replace(SPEC, remove="3"))
    assert bench.store.trial("0" * 16) is None


def test_law_8_an_untrained_cut_is_scored_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(SPEC, remove="first")
    first = trial.untrained(bench, spec, nobody)
    monkeypatch.delattr("pressft.scoring.score")
    assert trial.untrained(bench, dataclasses.replace(spec, rank=9), nobody) == first


def test_a_test_score_covers_every_test_document(
    bench: Bench, results: dict[str, TrialResult]
) -> None:
    articles = bench.corpus.splits.test
    for result in results.values():
        sizes = [len(article.text.encode()) for article in articles]
        assert [score.bytes for score in result.test] == sizes
        assert result.test_score.tokens == sum(sizes)  # one token a byte


def test_the_saved_adapter_gives_the_scores_of_the_result(
    bench: Bench, results: dict[str, TrialResult], load: Callable[..., Base]
) -> None:
    result, base = results["first"], load("tiny-llama")
    with surgery.removed(base.model, [0]) as removal:
        folder = bench.store.folder(result.cell) / "adapter"
        model = adapters.load(base.model, removal, base.identity, folder)
        test = trial.scoring.score(model, bench.test, bench.separators.before, SPEC.window)
        model.unload()
        base.model.__dict__.pop("peft_config", None)
    assert total(test).nats == pytest.approx(result.test_score.nats, rel=1e-6)


def test_training_on_text_makes_the_text_likelier(
    bench: Bench, results: dict[str, TrialResult]
) -> None:
    for arm, result in results.items():
        before = total(trial.untrained(bench, dataclasses.replace(SPEC, remove=arm), nobody).test)
        assert result.test_score.perplexity < before.perplexity
        assert len(result.samples) == trial.N_SAMPLES


def test_law_3_a_cut_base_saved_by_us_is_a_plain_model(
    bench: Bench, ids: torch.Tensor, tmp_path: Path
) -> None:
    with surgery.removed(bench.base.model, [1, 2]):
        bench.base.model.save_pretrained(tmp_path)
        logits = bench.base.model(ids).logits
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, logits)


def test_a_corpus_too_small_for_a_block_is_refused(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, block=10**6, tokens=1)
    with pytest.raises(DataError, match="less than one block of 1000000: crawl more text"):
        trial.prepare(spec, Store(tmp_path), nobody)


def test_the_validation_subset_is_a_fixed_beginning(bench: Bench) -> None:
    def subset(room: int) -> tuple[object, ...]:
        return bench.validation_subset(dataclasses.replace(SPEC, validation_tokens=room))

    assert len(subset(1)) == 1
    assert subset(10**9) == bench.validation
    assert subset(1000) == bench.validation[: len(subset(1000))]
    assert sum(len(d.ids) for d in bench.validation_subset(SPEC)) <= 1000


def done(number: int, validation: float, test: float, config: str = "") -> Done:
    result = TrialResult(
        cell="c",
        removal=Removal((), 4, 0),
        validation=Score(validation, 1, 1),
        test=(Score(test, 1, 1),),
        curve=(),
        samples=(),
        data="",
        tokens=1,
        training_s=1.0,
        total_s=1.0,
    )
    return Done(number, config or str(number), result)


def test_law_6_the_best_trial_is_chosen_by_validation_alone() -> None:
    trials = [done(0, 2.0, 0.1), done(1, 1.0, 9.0), done(2, 1.0, 0.2)]
    assert choose(trials) == (trials[1],)
    worse = [done(item.number, item.result.validation.nats, 99.0) for item in trials]
    assert choose(worse) == (worse[1],)
    assert choose([done(0, float("nan"), 1.0)]) == ()


def test_a_configuration_is_judged_over_all_its_seeds() -> None:
    lucky, unlucky = done(0, 1.0, 5.0, "a"), done(1, 4.0, 5.0, "a")
    steady = [done(2, 2.0, 1.0, "b"), done(3, 2.1, 2.0, "b")]
    assert choose([lucky, unlucky, *steady]) == tuple(steady)
    assert choose([lucky, *steady]) == tuple(steady)  # one seed is no match for two
    assert tables.tested(steady).perplexity == pytest.approx(math.exp(1.5))


def test_the_table_compares_the_best_trials_by_hand() -> None:
    def cut(nats: float, removal: Removal) -> Untrained:
        return Untrained(removal, 90, (Score(nats, 1, 1),), ())

    untrained = {"none": cut(3.0, Removal((), 4, 0)), "first": cut(6.0, Removal((0,), 4, 10))}
    trials = {"none": [done(0, 2.0, 2.0)], "first": [done(1, 4.0, 3.0)]}
    whole, first = arms(untrained, trials)
    assert whole.recovery is None
    assert whole.ratio is None
    assert first.recovery == pytest.approx((6 - 3) / (6 - 2))
    assert first.ratio == pytest.approx(math.e)
    assert (first.label, first.saved, first.best_trial) == ("first (0)", 10, 1)
    assert cells(first)[4] == "2.72 [2.72, 2.72]"
    equal = arms(untrained, {"none": trials["none"], "first": [done(1, 4.0, 2.0)]})[1]
    assert cells(equal)[4] == "1.00 [1.00, 1.00] (no difference shown)"
    assert arms(untrained, {})[1].trained is None


def test_the_invented_corpus_is_the_same_everywhere() -> None:
    # golden: the fingerprint names the cells that users keep
    assert invented.corpus().fingerprint.startswith("20528d3c5513a920")
