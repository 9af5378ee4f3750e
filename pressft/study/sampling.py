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
from pressft.study.trials import Trial, key

MAX_DEATHS = 3  # of processes at one cell since one start: then it is left
REDRAWS = 20  # TPE repeats itself on small discrete spaces: so often we ask for a point not had yet
COMPARED = 3  # trials of an arm that the median is taken of, at least


def settled(trials: Sequence[Trial], start_id: str) -> list[Trial]:
    """The rows whose cells are not to be taken: at work, done, or of no use to try again."""
    deaths = Counter(trial.key for trial in trials if trial.attrs.get("died_in") == start_id)
    return [
        trial
        for trial in trials
        if trial.is_done
        or trial.is_open
        or (
            trial.state == "fail"
            and (
                trial.attrs.get("final")
                or trial.attrs.get("failed_in") == start_id
                or deaths[trial.key] >= MAX_DEATHS
            )
        )
    ]


class Planner:
    """What a study asks for, cell by cell."""

    def __init__(self, study: Study, loss: Callable[[Trial], float | None]) -> None:
        """Of this study; trials of an arm are compared by `loss`."""
        self._study, self._loss = study, loss
        grid = study.grid() if study.design == "grid" else []
        self._grid = [(key(params), params) for params in grid]

    def following(self, had: Sequence[Trial]) -> dict[str, Value] | None:
        """Params of the next cell, given those that were had; None where there is none now."""
        if self._grid:
            keys = {trial.key for trial in had}
            return next((params for name, params in self._grid if name not in keys), None)
        return self._draw(had) or self._replicate(had)

    def _draw(self, had: Sequence[Trial]) -> dict[str, Value] | None:
        """Params for the arm with the fewest trials, None when every arm has its share."""
        first = self._study.seeds[0]
        drawn: dict[str, list[Trial]] = {arm: [] for arm in self._study.arms()}
        for trial in had:
            if trial.params["seed"] == first:
                drawn[trial.arm].append(trial)
        arm, trials = min(drawn.items(), key=lambda item: len(item[1]))
        if len(trials) >= self._study.trials:
            return None
        seen = {trial.key for trial in trials}
        within = {n: distribution(v) for n, v in self._study.within_arm().items()}
        for attempt in range(REDRAWS):
            sampler = TPESampler(seed=len(trials) * REDRAWS + attempt, constant_liar=True)
            scratch = optuna.create_study(sampler=sampler)
            scratch.add_trials([_for_sampler(trial, within, self._loss(trial)) for trial in trials])
            params = dict(scratch.ask(within).params) | {"seed": first, "remove": arm}
            if key(params) not in seen:
                break
        return params

    def _replicate(self, had: Sequence[Trial]) -> dict[str, Value] | None:
        """The best of an arm with a seed it has not had; arms first, then seeds."""
        keys = {trial.key for trial in had}
        first, *others = self._study.seeds
        for seed in others:
            for arm in self._study.arms():
                drawn = [r for r in had if r.arm == arm and r.params["seed"] == first]
                if any(trial.is_open for trial in drawn):
                    continue  # the best of the arm is not known yet
                scored = [r for r in drawn if r.state == "complete" and r.value is not None]
                if scored:
                    best = min(scored, key=lambda trial: (trial.value, trial.number))
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


def importances(trials: Sequence[Trial], space: Mapping[str, Any]) -> dict[str, float]:
    """Share of the validation loss that each setting of `space`, as a definition has it, accounts
    for, most first (Optuna's PED-ANOVA); empty where nothing varies."""
    names = (*space, "seed")
    done = [
        trial
        for trial in trials
        if trial.state == "complete" and trial.value is not None and trial.params.keys() >= {*names}
    ]
    kinds: dict[str, BaseDistribution] = {}
    for name in names:
        tried = tuple(dict.fromkeys(trial.params[name] for trial in done))
        if len(tried) > 1:
            asked = space.get(name)
            ends = Range(**asked) if isinstance(asked, Mapping) else Choices(*tried)
            kinds[name] = distribution(ends)
    if not kinds or len({trial.value for trial in done}) < 2:
        return {}
    study = optuna.create_study()
    for trial in done:
        params = {name: trial.params[name] for name in kinds}
        value = trial.value
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=value))
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
    trial: Trial, within: Mapping[str, BaseDistribution], loss: float | None
) -> FrozenTrial:
    """A trial of the arm as its sampler sees it: a failed one is a bad one."""
    params = {name: trial.params[name] for name in within}
    if loss is not None and trial.state != "fail":
        return optuna.trial.create_trial(params=params, distributions=dict(within), value=loss)
    state = TrialState.RUNNING if trial.state == "running" else TrialState.FAIL
    return optuna.trial.create_trial(params=params, distributions=dict(within), state=state)
