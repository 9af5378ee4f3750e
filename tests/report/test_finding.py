"""The finding of a study, worked out by hand, and its tables."""

import math
from collections.abc import Sequence

import pytest

from pressft.report import finding as arms
from pressft.report import tables
from pressft.report.finding import Arm, Done, Finding, choose, finding
from pressft.score import Score
from pressft.spec import Removal
from pressft.study.results import Answers, Cost, TrialResult, Untrained
from pressft.study.scans import Cut, Scan

WHOLE = Removal((), 4, 0)


def done(
    number: int,
    validation: float,
    test: float | Sequence[float],
    config: str = "",
    general: float | None = None,
) -> Done:
    """A trial with these losses: one of validation, one a test document."""
    losses = [test] if isinstance(test, float) else test
    result = TrialResult(
        cell="c",
        removal=WHOLE,
        validation=Score(validation, 1, 1, 1),
        test=tuple(Score(loss, 1, 1, 1) for loss in losses),
        curve=(),
        samples=(),
        data="",
        tokens=1,
        training_s=1.0,
        total_s=1.0,
        general=() if general is None else (Score(general, 1, 1, 1),),
    )
    return Done(number, config or str(number), result.validation.loss, lambda: result)


def cut(loss: float, removal: Removal, general: float | None = None) -> Untrained:
    scores = () if general is None else (Score(general, 1, 1, 1),)
    return Untrained(removal, 90, (Score(loss, 1, 1, 1),), (), scores)


def found(
    untrained: dict[str, Untrained],
    trials: dict[str, Sequence[Done]],
    scan: Scan | None = None,
) -> Finding:
    return finding({arm: (it, None, None) for arm, it in untrained.items()}, trials, {}, scan, {})


def compared(arm: Arm) -> str:
    """Its cell under `x whole`."""
    table = tables.of(Finding((arm,), (), {}, 0))[0]
    return table.rows[0][table.header.index("x whole")]


def test_law_6_the_best_trial_is_chosen_by_validation_alone() -> None:
    trials = [done(0, 2.0, 0.1), done(1, 1.0, 9.0), done(2, 1.0, 0.2)]
    assert choose(trials) == (trials[1],)
    worse = [done(item.number, item.loss, 99.0) for item in trials]
    assert choose(worse) == (worse[1],)
    assert choose([done(0, float("nan"), 1.0)]) == ()


def test_a_configuration_is_judged_over_all_its_seeds() -> None:
    lucky, unlucky = done(0, 1.0, 5.0, "a"), done(1, 4.0, 5.0, "a")
    steady = [done(2, 2.0, 1.0, "b"), done(3, 2.1, 2.0, "b")]
    assert choose([lucky, unlucky, *steady]) == tuple(steady)
    assert choose([lucky, *steady]) == tuple(steady)  # one seed is no match for two
    assert arms.tested(steady).perplexity == pytest.approx(math.exp(1.5))


def test_the_table_compares_the_best_trials_by_hand() -> None:
    untrained = {"none": cut(3.0, WHOLE), "first": cut(6.0, Removal((0,), 4, 10))}
    trials = {"none": [done(0, 2.0, 2.0)], "first": [done(1, 4.0, 3.0)]}
    whole, first = found(untrained, trials).arms
    assert whole.trained is not None
    assert first.trained is not None
    assert whole.trained.recovery is whole.trained.ratio is None
    assert first.trained.recovery == pytest.approx((6 - 3) / (6 - 2))
    assert first.trained.ratio is not None
    assert first.trained.ratio.value == pytest.approx(math.e)
    assert (first.label, first.saved, first.trained.number) == ("first (0)", 10, 1)
    assert compared(first) == "2.72 [2.72, 2.72]"
    equal = found(untrained, {"none": trials["none"], "first": [done(1, 4.0, 2.0)]}).arms[1]
    assert compared(equal) == "1.00 [1.00, 1.00] (no difference shown)"
    nothing = found(untrained, {}).arms[1]
    assert nothing.trained is None
    assert compared(nothing) == "-"


def test_forgetting_compares_with_the_untrained_whole_model() -> None:
    untrained = {"none": cut(3.0, WHOLE, 2.0), "1": cut(6.0, Removal((1,), 4, 10), 4.0)}
    trials = {"none": [done(0, 2.0, 2.0, general=2.5)], "1": [done(1, 4.0, 3.0, general=3.0)]}
    result = found(untrained, trials)
    ratios = [arm.trained.forgetting for arm in result.arms if arm.trained]
    assert [ratio and ratio.value for ratio in ratios] == pytest.approx([math.exp(0.5), math.e])
    table = tables.of(result)[1]
    assert "general-domain text" in table.caption
    assert table.rows[1] == ("1", "54.6", "20.1", "2.72 [2.72, 2.72]")


def test_cuts_not_shown_to_be_worse_than_the_best_are_named() -> None:
    untrained = {"none": cut(3.0, WHOLE)}
    untrained |= {name: cut(6.0, Removal((i,), 9, 10)) for i, name in enumerate("abcd")}
    best = [2.0, 3.0, 2.5, 2.2, 2.9, 2.4, 2.6, 2.1]
    trials = {
        "none": [done(0, 0.5, best)],
        "a": [done(1, 1.0, best)],
        "b": [done(2, 2.0, [loss + 0.5 for loss in best])],  # worse on every text
        "c": [done(3, 1.5, best[::-1])],  # now better, now worse
        "d": [done(4, 1.5, [loss - 0.1 for loss in best])],  # better, but not by validation
    }
    result = found(untrained, trials)
    assert result.best is not None
    assert result.best.arm == "a"
    assert result.tied == ("c", "d")
    assert any("not shown to be worse" in line and "c, d" in line for line in tables.lines(result))


def scanned(losses: Sequence[float]) -> Scan:
    cuts = [Cut(str(i), Score(loss, 1, 1), loss, -loss, 0.0) for i, loss in enumerate(losses)]
    return Scan("m", "c", "w", "f", len(losses), Score(1, 1, 1), tuple(cuts))


def test_what_a_scan_foretold_is_ranked_against_the_healed_layers() -> None:
    healed = [5.0, 2.0, 3.0, 2.5, 4.0, 3.5]
    untrained = {str(i): cut(6.0, Removal((i,), 6, 10)) for i in range(6)}
    untrained |= {"mlp:1": cut(6.0, Removal((), 6, 5, ("mlp:1",)))}
    trials = {str(i): [done(i, 1.0, loss)] for i, loss in enumerate(healed)}
    trials |= {"mlp:1": [done(6, 1.0, 9.0)]}
    result = found(untrained, trials, scanned([2 * loss for loss in healed]))
    assert result.n_ranked == 6
    assert result.foretold["perplexity"].value == pytest.approx(1)
    assert result.foretold["angular_distance"].value == pytest.approx(-1)
    assert math.isnan(result.foretold["taylor"].value)
    assert 1 in result.foretold["influence"].interval
    assert "rank correlation" in tables.lines(result)[-1]
    few = dict(list(trials.items())[:3])
    assert found(untrained, few, scanned(healed)).foretold == {}
    assert found(untrained, trials).foretold == {}


def test_costs_and_readings_have_tables_where_there_are_any() -> None:
    before = Answers("k", ("a b a b a",), ("x y",), (Score(3.0, 2, 5, 1),))
    after = Answers("k", ("a b c d",), ("x y",), (Score(1.0, 2, 5, 1),))
    cost = Cost("a machine", 12.5, 3_000_000, 2_000_000)
    result = finding(
        {"none": (cut(3.0, WHOLE), cost, before)},
        {"none": [done(0, 2.0, 2.0)]},
        {"none": after},
        None,
        {"none": 2},
    )
    scores, answers_by_arm, costs = tables.of(result)
    assert "test split" in scores.caption
    assert scores.rows[0][1] == "1 (2 early)"
    wide = tables.scores(result.arms, wide=True)
    shown = dict(zip(wide.header, wide.rows[0], strict=True))
    assert (shown["best trial"], shown["parameters"], shown["tokens/s"]) == ("0", "90", "12.5")
    assert answers_by_arm.rows == (("none (whole)", "4.5", "1.6", "0.50", "1.00"),)
    assert "a machine" in costs.caption
    assert costs.rows == (("none (whole)", "90", "2 MB", "3 MB", "12.5"),)
    row = result.as_json()["arms"][0]
    assert row["cost"]["tokens_per_second"] == 12.5
    repetition = {"distinct_2_greedy": 1.0, "distinct_2_sampled": 1.0}
    assert row["answers_trained"] == {"loss": 0.5} | repetition
    header, line = tables.as_csv(result).splitlines()
    csv = dict(zip(header.split(","), line.split(","), strict=True))
    assert csv["cost_peak_bytes"] == "3000000"
    assert csv["answers_untrained_loss"] == "1.5"
