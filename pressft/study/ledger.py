"""The ledger of a study: which cells are taken, done, failed, in Optuna's storage.

The storage is the truth about trials (law 9). A trial is made running, with its params and its
owner, in one transaction, and by one process at a time: so many are run as are asked for, and no
cell twice, however many work on the study and whoever dies.
"""

import dataclasses
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from optuna.distributions import (
    CategoricalDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from pressft.errors import RefusedError
from pressft.spec import CELL_VERSION, TrialSpec, Value
from pressft.study import database, sampling, storage
from pressft.study.halving import Rungs
from pressft.study.liveness import LEASE_S, is_gone, worker_name
from pressft.study.reader import with_losses
from pressft.study.sampling import OneArm, Planner, settled
from pressft.study.study import Study, difference, grows
from pressft.study.trials import Trial, now_ms

UNNAMED_VERSION = 5  # of studies that were stored before they named one


class Ledger:
    """One study in one storage; of use to several processes, each with one of its own."""

    def __init__(
        self, study: Study, address: str, identity: Mapping[str, str], start_id: str = ""
    ) -> None:
        """Open or create the study; `identity` names model weights, the type they compute in, and
        corpus.

        Processes that work on the study together share a `start_id`: within it a cell that failed
        is not tried again.

        Raises:
            RefusedError: it exists with another definition, weights, type or corpus; the difference
                is in the message.
            MissingError: the storage cannot be opened.
        """
        self.design = study
        self.grown = ""  # what it asks for beyond what it did before
        self._ids: dict[int, int] = {}  # of open trials, by number
        self._alive: dict[int, float] = {}
        self._over: dict[int, Trial] = {}  # by number: nothing of them changes any more
        self._start_id = start_id or uuid.uuid4().hex
        self._storage = storage.backend(address)
        self._study = storage.connect(self._storage, study.name, create=True)
        self._lock = database.lock(address, study.name)
        self.ending = database.lock(address, f"{study.name}.end")
        self._pruner, self._rungs = sampling.pruner(study), Rungs(study)
        self._planner = Planner(study, self._rungs.first_loss)
        self._behind: list[Trial] = []  # ended, and nobody told of it
        self._heart: threading.Thread | None = None
        with storage.opening(), self._lock:
            own = {**identity, "version": CELL_VERSION}
            self._define(_completed(study.definition() | own))

    def _define(self, definition: dict[str, Any]) -> None:
        """Keep the definition, or compare it with the one there is."""
        study, attrs = self._study, self._study.user_attrs
        old = attrs.get("definition")
        changed = difference(_completed(old), definition) if old else ["new"]
        if old and changed:
            if (version := _completed(old)["version"]) != CELL_VERSION:
                raise RefusedError(
                    f"study {study.study_name} was computed by version {version} of the numbers, "
                    f"this is {CELL_VERSION}: status and report still read it; start a new one "
                    "with --as NAME"
                )
            if not grows(_completed(old), definition):
                raise RefusedError(
                    f"study {study.study_name} exists with another definition "
                    f"({'; '.join(changed)}): change it back, or start a new one that takes over "
                    "the cells still valid with --as NAME"
                )
            self.grown = "; ".join(changed)
        before = {name: json_to_distribution(d) for name, d in attrs.get("choices", {}).items()}
        wanted = sampling.distributions(self.design)
        if old and not before:  # from a version that did not keep them
            before = {
                name: found.distributions[name]
                for found in study.get_trials(deepcopy=False)
                for name in found.distributions
            }
        self._space = {n: sampling.widened(before.get(n, d), d) for n, d in wanted.items()}
        for name, kind in self._space.items():
            if (
                name in before
                and kind != before[name]
                and isinstance(kind, CategoricalDistribution)
            ):
                self._storage.extend_choices(study._study_id, name, distribution_to_json(kind))
        if changed:
            kept = {name: distribution_to_json(kind) for name, kind in self._space.items()}
            study.set_user_attr("choices", kept)
            study.set_user_attr("asked", self.design.n_trials)
            study.set_user_attr("definition", definition)
        if attrs.get("question") != self.design.question:
            study.set_user_attr("question", self.design.question)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Keep facts about the study in the storage, as JSON: its prompts, its environment, its
        corpus in numbers."""
        for name, fact in facts.items():
            self._study.set_user_attr(name, fact)

    @property
    def start_id(self) -> str:
        """Name of the start, for the processes that are to share it."""
        return self._start_id

    def recover(self, worker: str = "", reason: str = "its process died") -> list[Trial]:
        """Close the trials that dead processes left running, and return them: those of `worker`,
        or those of this machine's processes that are gone, and those that nobody has kept alive."""
        left = []
        with self._lock:
            running = [trial for trial in self.trials() if trial.state == "running"]
            heard_since = self._storage.up_since() if running else 0.0
            for trial in running:
                theirs = str(trial.attrs.get("worker", ""))
                alive = float(trial.attrs.get("alive", 0.0))
                ours = theirs == worker_name() and trial.number not in self._ids
                gone = ours or is_gone(theirs, alive, heard_since)
                if theirs == worker if worker else gone:
                    self._note(trial.id, died_in=self._start_id, fault=reason)
                    if self._close(trial.id, TrialState.FAIL):
                        left.append(trial)
        return left

    def take(self) -> Trial | None:
        """The next trial, now running; None when there is none to take (see `busy`).

        Planning and taking are one step for all processes that work on the study: the budget is
        counted in the storage, and four workers asked for thirty trials run thirty.
        """
        while True:
            with self._lock as lock:
                had = settled(self.trials(), self._start_id)
                if resting := self._onward(had):
                    return resting
                params = self._planner.following(had)
                if params is None:
                    return None
                trial_id = self._make(params)
                if lock.holds():
                    number = self._storage.get_trial(trial_id).number
                    base = self.design.base
                    return self._ours(Trial(number, "running", params, None, {}, base, trial_id))
            # a restart of the database gave the lock away: another one may have the same cell
            self._close(trial_id, TrialState.FAIL)

    def until(self, trial: Trial) -> int | None:
        """Tokens after which a trial is to rest until others of its arm have come so far; None: it
        goes to its end."""
        return self._rungs.until(trial.spec, trial.tokens)

    def _ours(self, trial: Trial) -> Trial:
        """A running trial, which this process keeps alive from here on."""
        self._ids[trial.number], self._alive[trial.number] = trial.id, time.time()
        self._beat()
        return trial

    def _onward(self, had: Sequence[Trial]) -> Trial | None:
        """A resting trial that goes on, now running; those that do not are ended."""
        verdict = self._rungs.verdict(had)
        for trial, why in verdict.behind:
            self._note(trial.id, pruned=why)
            if self._close(trial.id, TrialState.PRUNED, trial.losses[-1][1]):
                self._behind.append(
                    dataclasses.replace(trial, attrs={**trial.attrs, "pruned": why})
                )
        for trial in verdict.onward:
            self._note(trial.id, worker=worker_name(), alive=time.time())
            if self._wake(trial.id):
                return self._ours(dataclasses.replace(trial, state="running"))
        return None

    def _wake(self, trial_id: int) -> bool:
        """Whether a resting trial is running and ours now, by this call or by one whose answer was
        lost."""
        if self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return True
        found = self._storage.get_trial(trial_id)
        ours = found.user_attrs.get("worker") == worker_name()
        return bool(found.state == TrialState.RUNNING and ours)

    def behind(self) -> list[Trial]:
        """The trials that were ended at a rung since last asked."""
        found, self._behind = self._behind, []
        return found

    def _make(self, params: Mapping[str, Value]) -> int:
        """Id of a new running trial of ours."""
        attrs = {"params": dict(params), "worker": worker_name(), "alive": time.time()}
        trial = create_trial(
            state=TrialState.RUNNING,
            params={name: params[name] for name in self._space},
            distributions=self._space,
            user_attrs=attrs,
        )
        return int(self._storage.create_new_trial(self._study._study_id, trial))

    def busy(self) -> bool:
        """Whether others are at work, whose ends may bring more to do."""
        trials = self.trials()
        return any(trial.state == "running" and trial.number not in self._ids for trial in trials)

    def _beat(self) -> None:
        """Keep the open trials alive in the storage, from a thread of our own: neither a long
        step nor a database that is away makes a live trial look dead."""
        if self._heart is None:
            self._heart = threading.Thread(target=self._keep_alive, daemon=True)
            self._heart.start()

    def _keep_alive(self) -> None:
        while True:
            time.sleep(LEASE_S / 60)
            for number, trial_id in list(self._ids.items()):
                if time.time() - self._alive.get(number, 0.0) > LEASE_S / 10:
                    try:
                        self._note(trial_id, alive=time.time())
                    except Exception:  # (closed meanwhile, or away for long: next time)
                        continue
                    self._alive[number] = time.time()

    def note(self, trial: Trial, **attrs: Any) -> None:  # noqa: ANN401
        """Keep facts about a running trial, as JSON, in the storage."""
        self._note(self._ids[trial.number], **attrs)

    def _note(self, trial_id: int, **attrs: Any) -> None:  # noqa: ANN401
        with suppress(UpdateFinishedTrialError):  # others took it for dead
            for name, value in attrs.items():
                self._storage.set_trial_user_attr(trial_id, name, value)

    def rest(self, trial: Trial) -> None:
        """Let a trial wait at its rung: it goes on, or ends, when others have come so far."""
        trial_id = self._ids.pop(trial.number)
        self._note(trial_id, losses=self._losses(trial_id))
        with suppress(UpdateFinishedTrialError):  # others took it for dead
            self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def _losses(self, trial_id: int) -> list[tuple[int, float]]:
        """Of validation, by tokens seen."""
        return sorted(self._storage.get_trial(trial_id).intermediate_values.items())

    def tell(self, trial: Trial, tokens: int, loss: float) -> None:
        """Keep a validation loss after so many tokens."""
        trial_id = self._ids[trial.number]
        self._storage.set_trial_intermediate_value(trial_id, tokens, loss)

    def should_prune(self, trial: Trial, tokens: int, loss: float) -> bool:
        """Keep a validation loss after so many tokens; whether the trial is to end there, for it
        is behind others of its arm."""
        self.tell(trial, tokens, loss)
        trial_id = self._ids[trial.number]
        first = self.design.seeds[0]
        if self._pruner is None or trial.spec.seed != first or tokens >= trial.spec.trained_tokens:
            return False

        def belongs(other: FrozenTrial) -> bool:
            params = other.user_attrs.get("params", {})
            return (params.get("remove"), params.get("seed")) == (trial.params["remove"], first)

        arm = OneArm(self._study, belongs)
        return bool(self._pruner.prune(arm, self._storage.get_trial(trial_id)))

    def prune(self, trial: Trial, reason: str) -> None:
        """Close a trial that ended early."""
        losses = self._losses(self._ids[trial.number])
        self.note(trial, pruned=reason, losses=losses)
        self._close(self._ids.pop(trial.number), TrialState.PRUNED, losses[-1][1])

    def complete(self, trial: Trial, value: float) -> bool:
        """Close a trial with its validation loss; False where others took it for dead meanwhile,
        and run its cell again, or answer it from our result."""
        if self.design.pruning != "none":
            self.note(trial, losses=self._losses(self._ids[trial.number]))
        return self._close(self._ids.pop(trial.number), TrialState.COMPLETE, value)

    def fail(self, trial: Trial, fault: str, *, again: bool, interrupted: bool = False) -> None:
        """Close a trial without a value; with `again` the next start repeats the cell, of an
        `interrupted` one this start too, and from its checkpoint."""
        start_id = "" if interrupted else self._start_id
        self.note(trial, fault=fault, final=not again, failed_in=start_id, interrupted=interrupted)
        self._close(self._ids.pop(trial.number), TrialState.FAIL)

    def _close(self, trial_id: int, state: TrialState, value: float | None = None) -> bool:
        """Whether the trial is closed as we wanted it, by us or by a call whose answer was lost."""
        self._note(trial_id, ended=now_ms())
        values = None if value is None else [value]
        try:
            self._storage.set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            found = self._storage.get_trial(trial_id)
            return bool(found.state == state and found.values == values)
        return True

    @contextmanager
    def brief_retries(self) -> Iterator[None]:
        """Within the block, calls to an unreachable storage are retried for a short time only."""
        self._storage.retry_for_s = storage.BRIEF_RETRY_S
        try:
            yield
        finally:
            self._storage.retry_for_s = database.RETRY_FOR_S

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        study_id, base = self._study._study_id, self.design.base
        found = {t.number: t for t in self._storage.read(study_id, base, self._over)}
        self._over |= {number: trial for number, trial in found.items() if trial.is_over}
        return [trial for _, trial in sorted((self._over | found).items())]

    def trial(self, number: int) -> Trial:
        """A trial as it is stored now."""
        return next(trial for trial in self.trials() if trial.number == number)

    def running(self) -> list[Trial]:
        """The running trials by number, with their validation losses so far."""
        found = (trial for trial in self.trials() if trial.state == "running")
        return [with_losses(self._storage, trial) for trial in found]

    def n_open(self) -> int:
        """Trials still to be run, as far as it is known now."""
        over = [trial for trial in self.trials() if trial.is_done or trial.attrs.get("final")]
        return max(0, self.design.n_trials - len(over))


def _completed(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A stored definition with the settings that came later, at their defaults."""
    base = dataclasses.asdict(TrialSpec(**definition["base"]))
    later = {"pruning": "none", "precision": "float32", "version": UNNAMED_VERSION}
    return {**later, **definition, "base": base}
