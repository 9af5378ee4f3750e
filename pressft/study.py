"""The ledger of a study: which cells are asked for, taken, done. The only room that knows Optuna.

Optuna's storage is the truth about trials (law 9). A grid is queued whole; in a `per-arm` study
each arm has a TPE sampler of its own, rebuilt from that arm's trials, so that no arm learns from
another's losses and a resumed study draws what it would have drawn (law 7).
"""

import dataclasses
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from pressft.design import Choices, Range, Study, Value, difference
from pressft.errors import MissingError, RefusedError, UsageError
from pressft.leases import LEASE_S, is_gone, planning_lock, worker_name
from pressft.spec import TrialSpec

optuna.logging.set_verbosity(optuna.logging.ERROR)

MAX_DEATHS = 3  # of processes at one cell since one start: then it is left
REDRAWS = 20  # TPE repeats itself on small discrete spaces: so often we ask for a point not had yet


@dataclass(frozen=True, slots=True)
class Ticket:
    """A trial to run: its number in the storage and what to run."""

    number: int
    spec: TrialSpec


@dataclass(frozen=True, slots=True)
class Row:
    """A trial as the ledger knows it; `value` is the validation loss in nats a token."""

    number: int
    state: str  # waiting, running, complete, fail
    params: Mapping[str, Value]
    value: float | None
    attrs: Mapping[str, Any]

    @property
    def arm(self) -> str:
        """Value of `remove`, as named in the study."""
        return str(self.params["remove"])


class Ledger:
    """One study in one storage."""

    def __init__(
        self, study: Study, storage: str, identity: Mapping[str, str], start_id: str = ""
    ) -> None:
        """Open or create the study; `identity` names model weights and corpus.

        Processes that work on the study together share a `start_id`: within it a cell that failed
        is not tried again.

        Raises:
            RefusedError: it exists with another definition, weights or corpus; the difference is
                in the message.
            MissingError: the storage cannot be opened.
        """
        self.design = study
        self._open: dict[int, Trial] = {}
        self._start_id = start_id or uuid.uuid4().hex
        definition = study.definition() | dict(identity)
        self._study = _connect(storage, study.name, create=True)
        self._lock = planning_lock(_url(storage), study.name)
        old = self._study.user_attrs.get("definition")
        if old is None:
            self._study.set_user_attr("definition", definition)
            self._study.set_user_attr("asked", study.n_trials)
        elif changed := difference(_completed(old), definition):
            raise RefusedError(
                f"study {study.name} exists with another definition ({'; '.join(changed)}): "
                "change it back, or give the study another name"
            )
        if self._study.user_attrs.get("question") != study.question:
            self._study.set_user_attr("question", study.question)

    def describe(self, **facts: Mapping[str, Any]) -> None:
        """Keep facts about the study in the storage: its material, its environment."""
        for name, fact in facts.items():
            self._study.set_user_attr(name, dict(fact))

    @property
    def start_id(self) -> str:
        """Name of the start, for the processes that are to share it."""
        return self._start_id

    def recover(self, worker: str = "") -> list[Row]:
        """Close the trials that dead processes left running, and return them: those of `worker`,
        or those of this machine's processes that are gone, and those that nobody has kept alive."""
        left = []
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            theirs = str(trial.user_attrs.get("worker", ""))
            ours = theirs == worker_name() and trial.number not in self._open
            gone = ours or is_gone(theirs, trial.user_attrs.get("alive", 0.0))
            if theirs == worker if worker else gone:
                optuna.trial.Trial(self._study, trial._trial_id).set_user_attr(
                    "died_in", self._start_id
                )
                self._study.tell(trial.number, state=TrialState.FAIL)
                left.append(_row(trial))
        return left

    def take(self) -> Ticket | None:
        """The next trial, now running; None when there is none to take (see `busy`).

        Planning and taking are one step for all processes that work on the study: the budget is
        counted in the storage, and four workers asked for thirty trials run thirty.
        """
        with self._lock:
            self._plan()
            if not any(row.state == "waiting" for row in self.rows()):
                return None
            trial = self._study.ask(self._distributions())
            trial.set_user_attr("worker", worker_name())
            trial.set_user_attr("alive", time.time())
        params: dict[str, Value] = trial.user_attrs["params"]
        self._open[trial.number] = trial
        return Ticket(trial.number, self.design.spec(**params))

    def busy(self) -> bool:
        """Whether others are at work, whose ends may bring more to do."""
        running = (row for row in self.rows() if row.state == "running")
        return any(row.number not in self._open for row in running)

    def keep_alive(self, ticket: Ticket) -> None:
        """Say that the trial is being worked on, now and then."""
        trial = self._open[ticket.number]
        if time.time() - trial.user_attrs["alive"] > LEASE_S / 10:
            trial.set_user_attr("alive", time.time())

    def note(self, ticket: Ticket, **attrs: str | float | None) -> None:
        """Keep facts about a running trial in the storage."""
        for name, value in attrs.items():
            self._open[ticket.number].set_user_attr(name, value)

    def complete(self, ticket: Ticket, value: float) -> None:
        """Close a trial with its validation loss."""
        self._study.tell(self._open.pop(ticket.number), value)

    def fail(self, ticket: Ticket, fault: str, *, again: bool, interrupted: bool = False) -> None:
        """Close a trial without a value; with `again` the next start repeats the cell, of an
        `interrupted` one this start too, and from its checkpoint."""
        start_id = "" if interrupted else self._start_id
        self.note(ticket, fault=fault, final=not again, failed_in=start_id, interrupted=interrupted)
        self._study.tell(self._open.pop(ticket.number), state=TrialState.FAIL)

    def rows(self) -> list[Row]:
        """All trials, by number."""
        return [_row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def n_open(self) -> int:
        """Trials still to be run, as far as it is known now."""
        settled = [row for row in self.rows() if row.state == "complete" or row.attrs.get("final")]
        return max(0, self.design.n_trials - len(settled))

    def _plan(self) -> None:
        """Queue what is missing: the whole grid, or the next draw of the arm with the fewest."""
        rows = self.rows()
        deaths = Counter(
            _key(row.params) for row in rows if row.attrs.get("died_in") == self._start_id
        )
        had = [
            row
            for row in rows
            if row.state != "fail"
            or row.attrs.get("final")
            or row.attrs.get("failed_in") == self._start_id
            or deaths[_key(row.params)] >= MAX_DEATHS
        ]
        if self.design.design == "grid":
            keys = {_key(row.params) for row in had}
            for params in self.design.grid():
                if _key(params) not in keys:
                    self._enqueue(params)
        elif not any(row.state == "waiting" for row in had):
            drawn = self._draw(had) or self._replicate(had)
            if drawn:
                self._enqueue(drawn)

    def _enqueue(self, params: Mapping[str, Value]) -> None:
        in_space = {name: params[name] for name in self._distributions()}
        self._study.enqueue_trial(in_space, user_attrs={"params": dict(params)})

    def _draw(self, had: list[Row]) -> dict[str, Value] | None:
        """Parameters for the arm with the fewest trials, None when every arm has its share."""
        first = self.design.seeds[0]
        drawn: dict[str, list[Row]] = {arm: [] for arm in self.design.arms()}
        for row in had:
            if row.params["seed"] == first:
                drawn[row.arm].append(row)
        arm, rows = min(drawn.items(), key=lambda item: len(item[1]))
        if len(rows) >= self.design.trials:
            return None
        seen = {_key(row.params) for row in rows}
        within = {n: _distribution(v) for n, v in self.design.within_arm().items()}
        for attempt in range(REDRAWS):
            sampler = TPESampler(seed=len(rows) * REDRAWS + attempt, constant_liar=True)
            scratch = optuna.create_study(sampler=sampler)
            scratch.add_trials([_for_sampler(row, within) for row in rows])
            params = dict(scratch.ask(within).params) | {"seed": first, "remove": arm}
            if _key(params) not in seen:
                break
        return params

    def _replicate(self, had: list[Row]) -> dict[str, Value] | None:
        """The best of an arm with a seed it has not had; arms first, then seeds."""
        keys = {_key(row.params) for row in had}
        for seed in self.design.seeds[1:]:
            for arm in self.design.arms():
                done = [r for r in had if r.arm == arm and r.params["seed"] == self.design.seeds[0]]
                if any(row.state in {"waiting", "running"} for row in done):
                    continue  # the best of the arm is not known yet
                scored = [row for row in done if row.value is not None]
                if scored:
                    best = min(scored, key=lambda row: (row.value, row.number))
                    params = dict(best.params) | {"seed": seed}
                    if _key(params) not in keys:
                        return params
        return None

    def _distributions(self) -> dict[str, BaseDistribution]:
        """Of the parameters that the storage shows: whatever takes several values."""
        space: dict[str, Choices | Range] = dict(self.design.within_arm())
        space["remove"] = Choices(*self.design.arms())
        if len(self.design.seeds) > 1:
            space["seed"] = Choices(*self.design.seeds)
        return {name: _distribution(values) for name, values in space.items()}


@dataclass(frozen=True, slots=True)
class Stored:
    """A study as its storage knows it: base spec, hashes of weights and corpus, trials; its
    question, how many trials it asks for, what its models read, and where it was run."""

    base: TrialSpec
    weights: str
    corpus: str
    rows: list[Row]
    definition: Mapping[str, Any]
    question: str
    asked: int
    material: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def varied(self) -> list[str]:
        """Settings that take several numbers, the arms left out."""
        return [
            name
            for name, values in self.definition["space"].items()
            if name != "remove"
            and (isinstance(values, dict) or len(values) > 1)
            and not any(isinstance(value, str) for value in values if isinstance(values, list))
        ]

    def spec(self, row: Row) -> TrialSpec:
        """What a trial ran."""
        return dataclasses.replace(self.base, **dict(row.params))  # type: ignore[arg-type]


def stored(name: str, storage: str) -> Stored:
    """A stored study, for those who only look.

    Raises:
        UsageError: no such study; the message names those there are.
    """
    study = _connect(storage, name, create=False)
    definition = study.user_attrs["definition"]
    base = TrialSpec(**definition["base"])
    attrs = study.user_attrs
    return Stored(
        base=base,
        weights=definition["weights"],
        corpus=definition["corpus"],
        rows=[_row(trial) for trial in study.get_trials(deepcopy=False)],
        definition=definition,
        question=attrs.get("question", ""),
        asked=attrs.get("asked", 0),
        material=attrs.get("material", {}),
        environment=attrs.get("environment", {}),
    )


def names(storage: str) -> list[str]:
    """Names of all studies in a storage.

    Raises:
        MissingError: it cannot be opened.
    """
    with _opening():
        return sorted(optuna.get_all_study_names(_backend(storage)))


def is_dead(row: Row) -> bool:
    """Whether the process that had a running trial is gone."""
    return is_gone(str(row.attrs.get("worker", "")), float(row.attrs.get("alive", 0.0)))


def end(name: str, storage: str, number: int) -> None:
    """Close a trial that nobody works on any more; the next sweep runs its cell again."""
    _connect(storage, name, create=False).tell(number, state=TrialState.FAIL)


def importances(name: str, storage: str) -> dict[str, float]:
    """Share of the validation loss that each parameter accounts for, most first (Optuna's)."""
    study = _connect(storage, name, create=False)
    values = {trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None}
    return dict(optuna.importance.get_param_importances(study)) if len(values) > 1 else {}


def _completed(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A stored definition with the settings that came later, at their defaults."""
    base = dataclasses.asdict(TrialSpec(**definition["base"]))
    return {**definition, "base": base}


def _url(storage: str) -> sqlalchemy.URL:
    """A storage's address; `postgresql://` means psycopg 3, which is what is installed with us."""
    url = sqlalchemy.make_url(storage)
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _backend(storage: str) -> optuna.storages.RDBStorage:
    address = _url(storage).render_as_string(hide_password=False)
    return optuna.storages.RDBStorage(address, engine_kwargs={"pool_pre_ping": True})


@contextmanager
def _opening() -> Iterator[None]:
    """What can go wrong with a storage, in one line without its address."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise MissingError(f"study storage: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__module__.startswith(("sqlalchemy", "optuna")):
            raise MissingError(f"study storage cannot be opened: {_first(error)}") from error
        raise


def _connect(storage: str, name: str, *, create: bool) -> optuna.Study:
    with _opening():
        backend = _backend(storage)
        if create:
            return optuna.create_study(
                storage=backend,
                study_name=name,
                sampler=RandomSampler(),  # unused: every trial is queued with its parameters
                load_if_exists=True,
            )
        known = optuna.get_all_study_names(backend)
        if name not in known:
            there = ", ".join(sorted(known)) or "none; run `pressft sweep experiments/smoke.py`"
            raise UsageError(f"no study {name!r}: the storage holds {there}")
        return optuna.load_study(study_name=name, storage=backend)


def _first(error: Exception) -> str:
    """First line of an error, without the SQL and the address that follow."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _row(trial: FrozenTrial) -> Row:
    attrs = dict(trial.user_attrs)
    params = attrs.pop("params", dict(trial.params))
    return Row(trial.number, trial.state.name.lower(), params, trial.value, attrs)


def _key(params: Mapping[str, Value]) -> str:
    return json.dumps(dict(params), sort_keys=True)


def _distribution(values: Choices | Range) -> BaseDistribution:
    if isinstance(values, Choices):
        return CategoricalDistribution(values.values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _for_sampler(row: Row, within: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """A trial of the arm as its sampler sees it: a failed one is a bad one."""
    params = {name: row.params[name] for name in within}
    if row.value is not None:
        return optuna.trial.create_trial(params=params, distributions=dict(within), value=row.value)
    running = row.state in {"running", "waiting"}
    state = TrialState.RUNNING if running else TrialState.FAIL
    return optuna.trial.create_trial(params=params, distributions=dict(within), state=state)
