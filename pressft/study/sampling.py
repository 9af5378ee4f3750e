"""Which cell of a study comes next, which trial may be ended early, and which settings mattered.
Decides, writes nothing.

A grid is run in its order. In a `per-arm` study each arm has a TPE sampler of its own, rebuilt from
that arm's trials, so that no arm learns from another's losses and a resumed study draws what it
would have drawn (law 7). Pruning, too, compares within an arm. Halving is left to `rungs`.
"""

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from pressft.spec import Value
from pressft.study.study import Choices, Range, Study
from pressft.study.trials import Row, key

MAX_DEATHS = 3  # of processes at one cell since one start: then it is left
REDRAWS = 20  # TPE repeats itself on small discrete spaces: so often we ask for a point not had yet
COMPARED = 3  # trials of an arm that the median is taken of, at least


def settled(rows: Sequence[Row], start_id: str) -> list[Row]:
    """The rows whose cells are not to be taken: at work, done, or of no use to try again."""
    deaths = Counter(row.key for row in rows if row.attrs.get("died_in") == start_id)
    return [
        row
        for row in rows
        if row.is_done
        or row.is_open
        or (
            row.state == "fail"
            and (
                row.attrs.get("final")
                or row.attrs.get("failed_in") == start_id
                or deaths[row.key] >= MAX_DEATHS
            )
        )
    ]


class Planner:
    """What a study asks for, cell by cell."""

    def __init__(self, study: Study, loss: Callable[[Row], float | None]) -> None:
        """Of this study; trials of an arm are compared by `loss`."""
        self._study, self._loss = study, loss
        grid = study.grid() if study.design == "grid" else []
        self._grid = [(key(params), params) for params in grid]

    def following(self, had: Sequence[Row]) -> dict[str, Value] | None:
        """Params of the next cell, given those that were had; None where there is none now."""
        if self._grid:
            keys = {row.key for row in had}
            return next((params for name, params in self._grid if name not in keys), None)
        return self._draw(had) or self._replicate(had)

    def _draw(self, had: Sequence[Row]) -> dict[str, Value] | None:
        """Params for the arm with the fewest trials, None when every arm has its share."""
        first = self._study.seeds[0]
        drawn: dict[str, list[Row]] = {arm: [] for arm in self._study.arms()}
        for row in had:
            if row.params["seed"] == first:
                drawn[row.arm].append(row)
        arm, rows = min(drawn.items(), key=lambda item: len(item[1]))
        if len(rows) >= self._study.trials:
            return None
        seen = {row.key for row in rows}
        within = {n: distribution(v) for n, v in self._study.within_arm().items()}
        for attempt in range(REDRAWS):
            sampler = TPESampler(seed=len(rows) * REDRAWS + attempt, constant_liar=True)
            scratch = optuna.create_study(sampler=sampler)
            scratch.add_trials([_for_sampler(row, within, self._loss(row)) for row in rows])
            params = dict(scratch.ask(within).params) | {"seed": first, "remove": arm}
            if key(params) not in seen:
                break
        return params

    def _replicate(self, had: Sequence[Row]) -> dict[str, Value] | None:
        """The best of an arm with a seed it has not had; arms first, then seeds."""
        keys = {row.key for row in had}
        first, *others = self._study.seeds
        for seed in others:
            for arm in self._study.arms():
                drawn = [r for r in had if r.arm == arm and r.params["seed"] == first]
                if any(row.is_open for row in drawn):
                    continue  # the best of the arm is not known yet
                scored = [r for r in drawn if r.state == "complete" and r.value is not None]
                if scored:
                    best = min(scored, key=lambda row: (row.value, row.number))
                    params = dict(best.params) | {"seed": seed}
                    if key(params) not in keys:
                        return params
        return None


def distribution(values: Choices | Range) -> BaseDistribution:
    """Optuna's form of choices or a range."""
    if isinstance(values, Choices):
        return CategoricalDistribution(values.values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def distributions(study: Study) -> dict[str, BaseDistribution]:
    """Of the params that the storage shows: whatever takes several values."""
    space: dict[str, Choices | Range] = dict(study.within_arm())
    space["remove"] = Choices(*study.arms())
    if len(study.seeds) > 1:
        space["seed"] = Choices(*study.seeds)
    return {name: distribution(values) for name, values in space.items()}


def widened(old: BaseDistribution, new: BaseDistribution) -> BaseDistribution:
    """Choices that keep the places of the old ones, with the new ones behind."""
    if not isinstance(old, CategoricalDistribution) or not isinstance(new, CategoricalDistribution):
        return new
    return CategoricalDistribution(
        (*old.choices, *(choice for choice in new.choices if choice not in old.choices))
    )


def importances(rows: Sequence[Row], space: Mapping[str, Any]) -> dict[str, float]:
    """Share of the validation loss that each setting of `space`, as a definition has it, accounts
    for, most first (Optuna's PED-ANOVA); empty where nothing varies."""
    names = (*space, "seed")
    done = [
        row
        for row in rows
        if row.state == "complete" and row.value is not None and row.params.keys() >= {*names}
    ]
    kinds: dict[str, BaseDistribution] = {}
    for name in names:
        tried = tuple(dict.fromkeys(row.params[name] for row in done))
        if len(tried) > 1:
            asked = space.get(name)
            ends = Range(**asked) if isinstance(asked, Mapping) else Choices(*tried)
            kinds[name] = distribution(ends)
    if not kinds or len({row.value for row in done}) < 2:
        return {}
    study = optuna.create_study()
    for row in done:
        params = {name: row.params[name] for name in kinds}
        trial = optuna.trial.create_trial(params=params, distributions=kinds, value=row.value)
        study.add_trial(trial)
    return dict(optuna.importance.get_param_importances(study))


def pruner(study: Study) -> BasePruner | None:
    """The rule by which trials of an arm are ended early as they go, by tokens seen."""
    if study.pruning != "median":
        return None
    return MedianPruner(n_startup_trials=COMPARED, n_min_trials=COMPARED)


class OneArm(optuna.Study):
    """A stored study of which only the first-seed trials of one arm are to be seen."""

    def __init__(self, study: optuna.Study, belongs: Callable[[FrozenTrial], bool]) -> None:
        """Of the trials that belong."""
        super().__init__(study.study_name, study._storage)
        self._belongs = belongs

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Those of the arm."""
        return [t for t in super().get_trials(deepcopy, states) if self._belongs(t)]


def _for_sampler(
    row: Row, within: Mapping[str, BaseDistribution], loss: float | None
) -> FrozenTrial:
    """A trial of the arm as its sampler sees it: a failed one is a bad one."""
    params = {name: row.params[name] for name in within}
    if loss is not None and row.state != "fail":
        return optuna.trial.create_trial(params=params, distributions=dict(within), value=loss)
    state = TrialState.RUNNING if row.state == "running" else TrialState.FAIL
    return optuna.trial.create_trial(params=params, distributions=dict(within), state=state)
