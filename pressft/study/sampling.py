"""Which cell of a study comes next, which trial is pruned, and which settings mattered. Pure
decisions; nothing is written.

A grid is run in its order. In a `per-arm` study each arm has a TPE sampler of its own, rebuilt from
that arm's trials, so that no arm learns from another's losses and a resumed study draws what it
would have drawn (law 7). Pruning, too, compares within an arm. Halving is left to `halving`.
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

MAX_DEATHS = 3  # of processes running one cell within one start, after which it is given up
REDRAWS = 20  # of a point that is new: on small discrete spaces TPE repeats itself
COMPARED = 3  # trials of an arm, at least, whose median a trial is compared with


def claimed(trials: Sequence[Trial], start_id: str) -> list[Trial]:
    """The trials whose cells must not be run again: open, done, or not worth another attempt."""
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


class CellSampler:
    """Chooses the cells of a study one by one; trials of an arm are compared by `loss`."""

    def __init__(self, study: Study, loss: Callable[[Trial], float | None]) -> None:
        self._study, self._loss = study, loss
        grid = study.grid() if study.design == "grid" else []
        self._grid = [(key(params), params) for params in grid]

    def next_params(self, trials: Sequence[Trial]) -> dict[str, Value] | None:
        """Params of the next cell after those of `trials`; None if there is none at present."""
        if self._grid:
            keys = {trial.key for trial in trials}
            return next((params for name, params in self._grid if name not in keys), None)
        return self._draw(trials) or self._replicate(trials)

    def _draw(self, trials: Sequence[Trial]) -> dict[str, Value] | None:
        """Params for the arm with the fewest trials; None when every arm has all of its trials."""
        first = self._study.seeds[0]
        drawn: dict[str, list[Trial]] = {arm: [] for arm in self._study.arms()}
        for trial in trials:
            if trial.params["seed"] == first:
                drawn[trial.arm].append(trial)
        arm, own = min(drawn.items(), key=lambda item: len(item[1]))
        if len(own) >= self._study.trials:
            return None
        seen = {trial.key for trial in own}
        within = {n: distribution(v) for n, v in self._study.within_arm().items()}
        for attempt in range(REDRAWS):
            sampler = TPESampler(seed=len(own) * REDRAWS + attempt, constant_liar=True)
            scratch = optuna.create_study(sampler=sampler)
            scratch.add_trials([_for_sampler(trial, within, self._loss(trial)) for trial in own])
            params = dict(scratch.ask(within).params) | {"seed": first, "remove": arm}
            if key(params) not in seen:
                break
        return params

    def _replicate(self, trials: Sequence[Trial]) -> dict[str, Value] | None:
        """The best params of an arm with a seed not run yet: all arms with one seed, then the
        next seed."""
        keys = {trial.key for trial in trials}
        first, *others = self._study.seeds
        for seed in others:
            for arm in self._study.arms():
                drawn = [t for t in trials if t.arm == arm and t.params["seed"] == first]
                if any(trial.is_open for trial in drawn):
                    continue  # the best of the arm is not known yet
                scored = [t for t in drawn if t.state == "complete" and t.value is not None]
                if scored:
                    best = min(scored, key=lambda trial: (trial.value, trial.number))
                    params = dict(best.params) | {"seed": seed}
                    if key(params) not in keys:
                        return params
        return None


def distribution(values: Choices | Range) -> BaseDistribution:
    """Optuna's distribution over choices or a range."""
    if isinstance(values, Choices):
        return CategoricalDistribution(values.values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def distributions(study: Study) -> dict[str, BaseDistribution]:
    """The distributions of the params that Optuna stores: the space, the arms and the seeds."""
    space: dict[str, Choices | Range] = dict(study.within_arm())
    space["remove"] = Choices(*study.arms())
    if len(study.seeds) > 1:
        space["seed"] = Choices(*study.seeds)
    return {name: distribution(values) for name, values in space.items()}


def with_new_choices(old: BaseDistribution, new: BaseDistribution) -> BaseDistribution:
    """The old choices in their order, followed by the new ones."""
    if not isinstance(old, CategoricalDistribution) or not isinstance(new, CategoricalDistribution):
        return new
    return CategoricalDistribution(
        (*old.choices, *(choice for choice in new.choices if choice not in old.choices))
    )


def importances(trials: Sequence[Trial], space: Mapping[str, Any]) -> dict[str, float]:
    """The share of the variation in validation loss that each setting of `space` explains, largest
    first (Optuna's PED-ANOVA); empty where nothing varies. `space` is as a definition stores it."""
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
    """Optuna's pruner for a study with median pruning, which compares by tokens seen, else None."""
    if study.pruning != "median":
        return None
    return MedianPruner(n_startup_trials=COMPARED, n_min_trials=COMPARED)


class ArmView(optuna.Study):
    """A view of a stored study that shows only the trials which `belongs` accepts."""

    def __init__(self, study: optuna.Study, belongs: Callable[[FrozenTrial], bool]) -> None:
        super().__init__(study.study_name, study._storage)
        self._belongs = belongs

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials of the view."""
        return [t for t in super().get_trials(deepcopy, states) if self._belongs(t)]


def _for_sampler(
    trial: Trial, within: Mapping[str, BaseDistribution], loss: float | None
) -> FrozenTrial:
    """A trial as the sampler of its arm sees it; a trial that failed counts as a bad one."""
    params = {name: trial.params[name] for name in within}
    if loss is not None and trial.state != "fail":
        return optuna.trial.create_trial(params=params, distributions=dict(within), value=loss)
    state = TrialState.RUNNING if trial.state == "running" else TrialState.FAIL
    return optuna.trial.create_trial(params=params, distributions=dict(within), state=state)
