"""Successive halving: which trials continue from a rung, whatever their order. Real SQLite."""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from pressft.errors import UsageError
from pressft.spec import TrialSpec
from pressft.study import halving
from pressft.study.halving import Halving
from pressft.study.ledger import Ledger
from pressft.study.study import Choices, Range, Study
from pressft.study.trials import Trial

BASE = TrialSpec(model="tiny-llama", corpus="invented", tokens=9 * 64, batch=1, block=64)
RATES = Choices(1e-5, 1e-4, 1e-3, 1e-2)
GRID = Study(
    "halved",
    BASE,
    {"remove": Choices("none", "first", "2", "last"), "learning_rate": RATES},
    pruning="halving",
)
ARMS = dataclasses.replace(GRID, pruning="halving-arms")
IDENTITY = {"weights": "w", "corpus": "c"}
LEVEL = {"none": 1.0, "first": 9.0, "2": 2.0, "last": 3.0, "1": 2.5}


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'optuna.db'}"


def loss(trial: Trial, tokens: int) -> float:
    """Falls with the tokens; 1e-3 is best in all arms, then 1e-2, 1e-4, 1e-5."""
    rate = {1e-3: 0.0, 1e-2: 0.1, 1e-4: 0.2, 1e-5: 0.3}[round(trial.spec.learning_rate, 6)]
    return LEVEL[trial.spec.remove] + rate + 1 / tokens


def go(ledger: Ledger, trial: Trial, seen: dict[int, int]) -> None:
    """Train to the next rung, or to the end."""
    for step in trial.spec.validated_at:
        tokens = step * 64
        if tokens > seen.get(trial.number, 0):
            assert not ledger.should_prune(trial, tokens, loss(trial, tokens))
            seen[trial.number] = tokens
        if tokens == ledger.next_rung(trial):
            ledger.pause(trial)
            return
    ledger.complete(trial, loss(trial, trial.spec.trained_tokens))


def finish(ledger: Ledger, at_once: int = 1, seed: int = 0) -> dict[int, int]:
    """Run all trials, `at_once` at a time, finished in random order; tokens seen by each trial."""
    order, seen, running = random.Random(seed), {}, []
    while True:
        while len(running) < at_once and (trial := ledger.take()):
            running.append(trial)
        if not running:
            return seen
        go(ledger, running.pop(order.randrange(len(running))), seen)


def outcome(storage: str) -> dict[tuple[str, float], tuple[str, float]]:
    trials = optuna.load_study(study_name="halved", storage=storage).trials
    return {
        (t.params["remove"], t.params["learning_rate"]): (t.state.name, t.value) for t in trials
    }


def test_the_best_third_of_an_arm_goes_on_and_the_best_third_of_those_to_the_end(
    storage: str,
) -> None:
    assert halving.rungs(BASE) == (64, 320)
    ledger = Ledger(GRID, storage, IDENTITY)
    tokens = finish(ledger)
    assert Counter(tokens.values()) == {64: 8, 320: 4, 576: 4}
    complete = {cell for cell, (state, _) in outcome(storage).items() if state == "COMPLETE"}
    assert complete == {(arm, 1e-3) for arm in GRID.arms()}
    assert sum(tokens.values()) / (16 * 576) == pytest.approx(Halving(GRID).trained_share())
    assert ledger.n_open() == 0
    behind = {row.number: row.attrs["pruned"] for row in ledger.newly_pruned()}
    assert len(behind) == 12
    assert "after 64 tokens it is behind" in " ".join(behind.values())
    assert not ledger.newly_pruned()  # reported once


@pytest.mark.parametrize("study", [GRID, ARMS], ids=["within arms", "over arms"])
def test_law_7_what_goes_on_does_not_depend_on_who_came_first(
    study: Study, storage: str, tmp_path: Path
) -> None:
    finish(Ledger(study, storage, IDENTITY))
    for seed in range(3):
        other = f"sqlite:///{tmp_path / f'{seed}.db'}"
        finish(Ledger(study, other, IDENTITY), at_once=5, seed=seed)
        assert outcome(other) == outcome(storage)


def test_law_7_within_arms_every_arm_sees_the_same_tokens(storage: str) -> None:
    ledger = Ledger(GRID, storage, IDENTITY)
    tokens = finish(ledger)
    seen: Counter[str] = Counter()
    for row in ledger.trials():
        seen[row.arm] += tokens[row.number]
    assert len(set(seen.values())) == 1


def test_over_arms_the_best_third_of_the_cuts_goes_on_beside_the_whole_model(storage: str) -> None:
    ledger = Ledger(ARMS, storage, IDENTITY)
    tokens = finish(ledger)
    assert Counter(tokens.values()) == {64: 12, 320: 2, 576: 2}
    found = outcome(storage)
    complete = {cell for cell, (state, _) in found.items() if state == "COMPLETE"}
    assert complete == {("none", 1e-3), ("2", 1e-3)}
    assert sum(tokens.values()) / (16 * 576) == pytest.approx(Halving(ARMS).trained_share())
    assert ledger.n_open() == 0
    assert sum("its arm is behind" in row.attrs["pruned"] for row in ledger.newly_pruned()) == 4


def test_a_trial_that_dies_behind_a_rung_goes_on_from_there(storage: str, tmp_path: Path) -> None:
    finish(Ledger(GRID, other := f"sqlite:///{tmp_path / 'other.db'}", IDENTITY))
    ledger, seen = Ledger(GRID, storage, IDENTITY), {}
    while (trial := ledger.take()) and ledger.next_rung(trial) != 320:
        go(ledger, trial, seen)
    assert trial is not None  # it has passed the first rung; now its process dies
    ledger = Ledger(GRID, storage, IDENTITY)
    assert [row.number for row in ledger.recover()] == [trial.number]
    finish(ledger)
    assert outcome(storage) == outcome(other)


def test_a_trial_that_diverges_holds_nobody_up(storage: str) -> None:
    ledger, seen = Ledger(GRID, storage, IDENTITY), {}
    while trial := ledger.take():
        if trial.spec.learning_rate > 5e-4:
            ledger.fail(trial, "loss nan", again=False)
        else:
            go(ledger, trial, seen)
    complete = {cell for cell, (state, _) in outcome(storage).items() if state == "COMPLETE"}
    assert complete == {(arm, 1e-4) for arm in GRID.arms()}
    assert ledger.n_open() == 0


def test_per_arm_the_best_is_repeated_once_it_is_known(storage: str) -> None:
    study = Study(
        "halved",
        BASE,
        {"remove": Choices("none", "last"), "learning_rate": Range(1e-5, 1e-2, log=True)},
        design="per-arm",
        trials=4,
        seeds=(0, 1),
        pruning="halving",
    )
    ledger = Ledger(study, storage, IDENTITY)
    taken = []
    while trial := ledger.take():
        taken.append(trial)
        if ledger.next_rung(trial):
            tokens = ledger.next_rung(trial)
            ledger.record_loss(trial, tokens, trial.spec.learning_rate)
            ledger.pause(trial)
        else:
            ledger.complete(trial, trial.spec.learning_rate)
    again = [trial for trial in taken if trial.spec.seed == 1]
    assert [ledger.next_rung(trial) for trial in again] == [None, None]  # trained whole
    for trial in again:
        mine = [t.spec.learning_rate for t in taken if t.spec.remove == trial.spec.remove]
        assert trial.spec.learning_rate == min(mine)


def test_a_study_that_grows_compares_the_new_with_the_old(storage: str) -> None:
    finish(Ledger(GRID, storage, IDENTITY))
    more = dataclasses.replace(
        GRID,
        space={"remove": Choices("none", "first", "2", "last", "1"), "learning_rate": RATES},
    )
    ledger = Ledger(more, storage, IDENTITY)
    assert Counter(finish(ledger).values()) == {64: 2, 320: 1, 576: 1}
    assert ledger.n_open() == 0


@pytest.mark.parametrize(
    ("change", "rungs_"),
    [
        (lambda study: dataclasses.replace(study, pruning="none"), None),
        (lambda study: dataclasses.replace(study, pruning="median"), None),
        (lambda study: dataclasses.replace(study, space={"remove": Choices("1", "2")}), None),
        (lambda study: study, 64),
    ],
    ids=["none", "median", "one trial an arm", "halving"],
)
def test_only_who_has_rivals_rests(change: Callable[[Study], Study], rungs_: int | None) -> None:
    study = change(GRID)
    assert Halving(study).next_rung(study.spec()) == rungs_
    assert (Halving(study).trained_share() == 1) == (rungs_ is None)


def test_short_trials_have_fewer_rungs() -> None:
    for steps, expected in {1: (), 2: (64,), 4: (64, 192), 8: (64, 256), 32: (256, 1152)}.items():
        assert halving.rungs(dataclasses.replace(BASE, tokens=steps * 64)) == expected


@pytest.mark.parametrize("name", ["tokens", "batch", "block"])
def test_halving_refuses_trials_of_different_steps(name: str) -> None:
    with pytest.raises(UsageError, match=f"pauses all trials at the same step: give {name}"):
        Study("s", BASE, {name: Choices(64, 128)}, pruning="halving")
