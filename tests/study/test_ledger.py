"""The ledger: what is asked for, in which order, and what a second start finds. Real SQLite."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import optuna
import pytest

from pressft.errors import MissingError, RefusedError, UsageError
from pressft.spec import TrialSpec
from pressft.study import reader
from pressft.study.ledger import Ledger
from pressft.study.sampling import importances
from pressft.study.study import Choices, Range, Study
from pressft.study.trials import Trial

BASE = TrialSpec(model="tiny-llama", corpus="invented")
ARMS = Choices("none", "first", "last")
GRID = Study("grid", BASE, {"remove": ARMS, "rank": Choices(4, 8)})
PER_ARM = Study(
    "per-arm",
    BASE,
    {"remove": ARMS, "rank": Choices(4, 8, 16), "learning_rate": Range(1e-5, 1e-2, log=True)},
    design="per-arm",
    trials=6,
    seeds=(0, 1),
)
IDENTITY = {"weights": "w", "corpus": "c"}


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'optuna.db'}"


def loss(trial: Trial) -> float:
    """A made-up validation loss: the whole model best, a learning rate of 1e-3 best."""
    return abs(trial.spec.learning_rate - 1e-3) + (trial.spec.remove != "none") * 100


def finish(ledger: Ledger) -> list[Trial]:
    done = []
    while trial := ledger.take():
        ledger.complete(trial, loss(trial))
        done.append(trial)
    return done


def test_a_grid_runs_every_cell_once(storage: str) -> None:
    done = finish(Ledger(GRID, storage, IDENTITY))
    assert [(t.spec.remove, t.spec.rank) for t in done] == [
        (params["remove"], params["rank"]) for params in GRID.grid()
    ]
    assert finish(Ledger(GRID, storage, IDENTITY)) == []


def test_law_7_every_arm_has_the_same_number_of_trials(storage: str) -> None:
    done = finish(Ledger(PER_ARM, storage, IDENTITY))
    assert Counter(t.spec.remove for t in done) == {"none": 7, "first": 7, "last": 7}
    assert len({(t.spec.remove, t.spec.rank, t.spec.learning_rate) for t in done}) == 18
    for arm in PER_ARM.arms():
        mine = [t for t in done if t.spec.remove == arm]
        best = min((t for t in mine if t.spec.seed == 0), key=loss)
        again = [t for t in mine if t.spec.seed == 1]
        assert [dataclasses.replace(t.spec, seed=0) for t in again] == [best.spec]


def test_law_7_no_arm_learns_from_the_losses_of_another(storage: str, tmp_path: Path) -> None:
    together = finish(Ledger(PER_ARM, storage, IDENTITY))
    alone = dataclasses.replace(PER_ARM, space={**PER_ARM.space, "remove": Choices("first")})
    by_itself = finish(Ledger(alone, f"sqlite:///{tmp_path / 'other.db'}", IDENTITY))
    assert [t.spec for t in together if t.spec.remove == "first"] == [t.spec for t in by_itself]


def test_a_resumed_study_draws_what_it_would_have_drawn(storage: str, tmp_path: Path) -> None:
    undisturbed = finish(Ledger(PER_ARM, f"sqlite:///{tmp_path / 'other.db'}", IDENTITY))
    done = []
    for _ in range(30):
        ledger = Ledger(PER_ARM, storage, IDENTITY)  # a new process after every trial
        if trial := ledger.take():
            ledger.complete(trial, loss(trial))
            done.append(trial)
    assert [t.spec for t in done] == [t.spec for t in undisturbed]


def test_a_trial_left_running_is_run_again_by_the_next_start(storage: str) -> None:
    dead = Ledger(GRID, storage, IDENTITY).take()
    ledger = Ledger(GRID, storage, IDENTITY)
    assert dead is not None
    assert [row.number for row in ledger.recover()] == [dead.number]
    done = finish(ledger)
    assert sorted((t.spec.remove, t.spec.rank) for t in done) == sorted(
        (str(params["remove"]), params["rank"]) for params in GRID.grid()
    )


def test_a_failed_cell_is_tried_again_and_a_diverged_one_is_not(storage: str) -> None:
    ledger = Ledger(GRID, storage, IDENTITY)
    first, second = ledger.take(), ledger.take()
    assert first is not None
    assert second is not None
    ledger.fail(first, "disk full", again=True)
    ledger.fail(second, "loss nan", again=False)
    cells = [(t.spec.remove, t.spec.rank) for t in finish(Ledger(GRID, storage, IDENTITY))]
    assert (first.spec.remove, first.spec.rank) in cells
    assert (second.spec.remove, second.spec.rank) not in cells
    assert len(cells) == 5
    assert Ledger(GRID, storage, IDENTITY).n_open() == 0


@pytest.mark.parametrize("study", [GRID, PER_ARM], ids=["grid", "per-arm"])
def test_trials_that_always_fail_end_a_start(storage: str, study: Study) -> None:
    ledger = Ledger(study, storage, IDENTITY)
    for _ in range(6 if study is GRID else 18):
        trial = ledger.take()
        assert trial is not None
        ledger.fail(trial, "no memory", again=True)
    assert ledger.take() is None


def test_another_definition_is_refused_with_the_difference(storage: str) -> None:
    Ledger(GRID, storage, IDENTITY)
    other = dataclasses.replace(GRID, base=dataclasses.replace(BASE, tokens=5))
    with pytest.raises(RefusedError, match=r"base\.tokens: 1000000 -> 5"):
        Ledger(other, storage, IDENTITY)
    with pytest.raises(RefusedError, match='corpus: "c" -> "d"'):
        Ledger(GRID, storage, IDENTITY | {"corpus": "d"})


def test_plain_optuna_opens_the_storage_and_sees_the_parameters(storage: str) -> None:
    finish(Ledger(GRID, storage, IDENTITY))
    study = optuna.load_study(study_name="grid", storage=storage)
    assert len(study.trials) == 6
    assert study.best_params == {"remove": "none", "rank": 4}
    assert study.direction == optuna.study.StudyDirection.MINIMIZE


def test_an_unknown_study_is_refused_with_those_there_are(storage: str) -> None:
    Ledger(GRID, storage, IDENTITY)
    with pytest.raises(UsageError, match="no study 'gird': the storage holds grid"):
        reader.read("gird", storage)


@pytest.mark.parametrize("url", ["sqlite:////nowhere/optuna.db", "nonsense", "oracle://x/y"])
def test_a_storage_that_cannot_be_opened_is_one_clear_line(url: str) -> None:
    with pytest.raises(MissingError, match="study storage"):
        Ledger(GRID, url, IDENTITY)


def test_a_study_from_before_a_setting_came_is_gone_on_with(storage: str) -> None:
    ledger = Ledger(GRID, storage, IDENTITY)
    study = optuna.load_study(study_name=GRID.name, storage=storage)
    definition = study.user_attrs["definition"]
    del definition["base"]["mix"], definition["base"]["general"]
    study.set_user_attr("definition", definition)
    assert len(finish(Ledger(GRID, storage, IDENTITY))) == GRID.n_trials
    assert not ledger.others_running()


def test_a_study_goes_on_in_the_type_that_it_began_in(storage: str) -> None:
    Ledger(GRID, storage, IDENTITY)  # from before the type was kept, on a CPU
    Ledger(GRID, storage, IDENTITY | {"precision": "float32"})
    with pytest.raises(RefusedError, match=r'precision: "float32" -> "bfloat16"\).*--as NAME'):
        Ledger(GRID, storage, IDENTITY | {"precision": "bfloat16"})


def grown(study: Study, **changes: Choices) -> Study:
    return dataclasses.replace(study, space={**study.space, **changes})


def test_a_grid_that_grows_runs_what_is_new(storage: str) -> None:
    finish(Ledger(GRID, storage, IDENTITY))
    wider = grown(GRID, rank=Choices(16, 4, 8), remove=Choices("none", "middle", "first", "last"))
    ledger = Ledger(wider, storage, IDENTITY)
    assert "space.rank" in ledger.extension
    new = {(t.spec.remove, t.spec.rank) for t in finish(ledger)}
    assert new == {("none", 16), ("first", 16), ("last", 16)} | {("middle", r) for r in (4, 8, 16)}
    study = optuna.load_study(study_name="grid", storage=storage)
    assert len(study.trials) == 12
    assert {t.params["remove"] for t in study.trials} == {"none", "middle", "first", "last"}
    assert Counter(t.params["rank"] for t in study.trials) == {4: 4, 8: 4, 16: 4}
    study.add_trial(optuna.trial.create_trial(params={}, distributions={}, value=1.0))  # stock


def test_more_trials_and_seeds_an_arm_are_added_to_those_there_are(storage: str) -> None:
    had = finish(Ledger(PER_ARM, storage, IDENTITY))
    more = dataclasses.replace(PER_ARM, trials=7, seeds=(0, 1, 2))
    new = finish(Ledger(more, storage, IDENTITY))
    assert Counter(t.spec.seed for t in new if t.spec.remove == "none")[0] == 1
    assert not {repr(t.spec) for t in had} & {repr(t.spec) for t in new}


@pytest.mark.parametrize(
    "changed",
    [
        grown(GRID, rank=Choices(4)),
        dataclasses.replace(GRID, seeds=(1, 0)),
        dataclasses.replace(GRID, pruning="median"),
        grown(GRID, learning_rate=Choices(1e-4)),
    ],
    ids=["fewer ranks", "another first seed", "pruned", "a new axis"],
)
def test_a_study_that_becomes_another_is_refused_and_told_of_as(
    storage: str, changed: Study
) -> None:
    Ledger(GRID, storage, IDENTITY)
    with pytest.raises(RefusedError, match=r"with --as NAME"):
        Ledger(changed, storage, IDENTITY)


PRUNED = dataclasses.replace(PER_ARM, pruning="median", trials=5)


def test_law_7_pruning_compares_within_an_arm_by_tokens_seen(storage: str) -> None:
    ledger = Ledger(PRUNED, storage, IDENTITY)
    pruned = []
    for number in range(15):
        trial = ledger.take()
        assert trial is not None
        level = {"none": 1.0, "first": 50.0, "last": 5.0}[trial.spec.remove]
        late = number >= 12  # the fifth of each arm: behind the others of its arm
        if ledger.should_prune(trial, 100, level + late):
            ledger.prune(trial, "behind")
            pruned.append(trial.spec.remove)
        else:
            ledger.complete(trial, level)
    assert sorted(pruned) == ["first", "last", "none"]
    rows = reader.read("per-arm", storage).trials
    assert {row.state for row in rows[12:]} == {"pruned"}
    assert {row.attrs["pruned"] for row in rows[12:]} == {"behind"}
    again = finish(Ledger(PRUNED, storage, IDENTITY))  # replicates of the best; none is retried
    assert {trial.spec.seed for trial in again} == {1}
    assert Ledger(PRUNED, storage, IDENTITY).n_open() == 0
    study = optuna.load_study(study_name="per-arm", storage=storage)
    assert sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials) == 3


def test_law_6_a_replicate_is_never_pruned_and_no_trial_at_its_end(storage: str) -> None:
    ledger = Ledger(PRUNED, storage, IDENTITY)
    for _ in range(12):
        trial = ledger.take()
        assert trial is not None
        assert not ledger.should_prune(trial, 10, 1.0)
        ledger.complete(trial, 1.0)
    trial = ledger.take()
    assert trial is not None
    assert not ledger.should_prune(trial, trial.spec.trained_tokens, 9.0)


def test_the_setting_that_moves_the_loss_is_the_important_one() -> None:
    params = [
        {"remove": arm, "rank": rank, "learning_rate": rate, "seed": 0}
        for arm, rank, rate in itertools.product(("none", "1"), (2, 4, 8), (1e-4, 1e-3, 1e-2))
    ]
    rows = [
        Trial(n, "complete", it, 3.0 + int(str(it["rank"])) / 8, {}) for n, it in enumerate(params)
    ]
    early = Trial(18, "pruned", params[0], 99.0, {})
    space = {
        "remove": ["none", "1"],
        "rank": [2, 4, 8],
        "learning_rate": {"low": 1e-5, "high": 1.0},
    }
    shares = importances([*rows, early], space)
    assert set(shares) == {"remove", "rank", "learning_rate"}  # one seed says nothing
    assert max(shares, key=lambda name: shares[name]) == "rank"
    assert importances(rows[:1], space) == {}


def test_a_study_of_another_version_is_refused_in_one_line(storage: str) -> None:
    Ledger(GRID, storage, IDENTITY)
    stored = optuna.load_study(study_name=GRID.name, storage=storage)
    old = {k: v for k, v in stored.user_attrs["definition"].items() if k != "version"}
    stored.set_user_attr("definition", old)  # as it was before definitions had one
    with pytest.raises(RefusedError, match=r"computed by version 5 .* with --as NAME") as error:
        Ledger(GRID, storage, IDENTITY)
    assert "\n" not in str(error.value)
