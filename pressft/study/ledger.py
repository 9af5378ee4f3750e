"""The ledger of a study, in Optuna's storage: which cells are running, done or failed.

The storage is the truth about trials (law 9). A trial is created in state running, with its params
and its worker, in one transaction and by one process at a time. So exactly as many trials are run
as the study asks for, and no cell is run twice, however many workers there are and whichever die.
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
from pressft.study.halving import Halving
from pressft.study.liveness import LEASE_S, is_gone, worker_name
from pressft.study.reader import with_losses
from pressft.study.sampling import ArmView, CellSampler, claimed
from pressft.study.study import Study, difference, is_extension
from pressft.study.trials import Trial, now_ms

UNNAMED_VERSION = 5  # of studies that were stored before definitions named a version


class Ledger:
    """One study in one storage; every process that runs the study has a ledger of its own."""

    def __init__(
        self, study: Study, address: str, identity: Mapping[str, str], start_id: str = ""
    ) -> None:
        """Open or create the study; `identity` names the model weights, the type in which they are
        computed, and the corpus.

        Processes started by one command share a `start_id`, within which a cell that failed is not
        tried again.

        Raises:
            RefusedError: it exists with another definition, weights, type or corpus; the message
                names the difference.
            MissingError: the storage cannot be opened.
        """
        self.design = study
        self.extension = ""  # how the definition goes beyond the stored one
        self._ids: dict[int, int] = {}  # of the trials this process runs, by number
        self._alive: dict[int, float] = {}  # their last heartbeats
        self._ended: dict[int, Trial] = {}  # by number; these trials change no more
        self._start_id = start_id or uuid.uuid4().hex
        self._storage = storage.backend(address)
        self._study = storage.connect(self._storage, study.name, create=True)
        self._lock = database.lock(address, study.name)
        self.finish_lock = database.lock(address, f"{study.name}.end")
        self._pruner, self._halving = sampling.pruner(study), Halving(study)
        self._sampler = CellSampler(study, self._halving.first_loss)
        self._newly_pruned: list[Trial] = []  # by halving, and not reported yet
        self._heartbeat: threading.Thread | None = None
        with storage.opening(), self._lock:
            own = {**identity, "version": CELL_VERSION}
            self._define(_completed(study.definition() | own))

    def _define(self, definition: dict[str, Any]) -> None:
        """Store the definition, or compare it with the stored one."""
        study, attrs = self._study, self._study.user_attrs
        old = attrs.get("definition")
        changed = difference(_completed(old), definition) if old else ["new"]
        if old and changed:
            if (version := _completed(old)["version"]) != CELL_VERSION:
                raise RefusedError(
                    f"study {study.study_name} was computed by version {version} of the "
                    f"calculations, this is version {CELL_VERSION}: status and report still open "
                    "it; start a new one with --as NAME"
                )
            if not is_extension(_completed(old), definition):
                raise RefusedError(
                    f"study {study.study_name} exists with another definition "
                    f"({'; '.join(changed)}): change it back, or start a new one, which reuses "
                    "cells that are still valid, with --as NAME"
                )
            self.extension = "; ".join(changed)
        before = {name: json_to_distribution(d) for name, d in attrs.get("choices", {}).items()}
        wanted = sampling.distributions(self.design)
        if old and not before:  # stored by a version that did not store them
            before = {
                name: found.distributions[name]
                for found in study.get_trials(deepcopy=False)
                for name in found.distributions
            }
        self._space = {n: sampling.with_new_choices(before.get(n, d), d) for n, d in wanted.items()}
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
        """Store facts about the study as JSON: prompts, environment, corpus summary."""
        for name, fact in facts.items():
            self._study.set_user_attr(name, fact)

    @property
    def start_id(self) -> str:
        """The id of this start, for worker processes to share."""
        return self._start_id

    def recover(self, worker: str = "", reason: str = "its process died") -> list[Trial]:
        """Close the trials that dead processes left running, and return them. These are the trials
        of `worker` or, without one, of all processes that have ended on this machine or have sent
        no heartbeat from another."""
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
        """Start the next trial and return it; None when there is none (see `others_running`).

        Choosing and starting a trial happen under one lock of all processes: the budget is counted
        in the storage, and four workers asked for thirty trials run thirty.
        """
        while True:
            with self._lock as lock:
                trials = claimed(self.trials(), self._start_id)
                if resting := self._resume_paused(trials):
                    return resting
                params = self._sampler.next_params(trials)
                if params is None:
                    return None
                trial_id = self._create(params)
                if lock.holds():
                    number = self._storage.get_trial(trial_id).number
                    base = self.design.base
                    return self._claim(Trial(number, "running", params, None, {}, base, trial_id))
            # a restart of the database released the lock: another process may have the same cell
            self._close(trial_id, TrialState.FAIL)

    def next_rung(self, trial: Trial) -> int | None:
        """Tokens after which a trial is paused until the others of its arm have seen as many; None
        if it is trained to its end."""
        return self._halving.next_rung(trial.spec, trial.tokens)

    def _claim(self, trial: Trial) -> Trial:
        """Register a running trial as one for which this process sends heartbeats."""
        self._ids[trial.number], self._alive[trial.number] = trial.id, time.time()
        self._start_heartbeat()
        return trial

    def _resume_paused(self, trials: Sequence[Trial]) -> Trial | None:
        """Prune the paused trials that lost at their rung, and resume one of the others, if any."""
        verdict = self._halving.verdict(trials)
        for trial, why in verdict.pruned:
            self._note(trial.id, pruned=why)
            if self._close(trial.id, TrialState.PRUNED, trial.losses[-1][1]):
                self._newly_pruned.append(
                    dataclasses.replace(trial, attrs={**trial.attrs, "pruned": why})
                )
        for trial in verdict.resumed:
            self._note(trial.id, worker=worker_name(), alive=time.time())
            if self._set_running(trial.id):
                return self._claim(dataclasses.replace(trial, state="running"))
        return None

    def _set_running(self, trial_id: int) -> bool:
        """Set a paused trial running. Return whether it is running and ours now, by this call or by
        an earlier one whose answer was lost."""
        if self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return True
        found = self._storage.get_trial(trial_id)
        ours = found.user_attrs.get("worker") == worker_name()
        return bool(found.state == TrialState.RUNNING and ours)

    def newly_pruned(self) -> list[Trial]:
        """The trials that halving has pruned since the last call."""
        found, self._newly_pruned = self._newly_pruned, []
        return found

    def _create(self, params: Mapping[str, Value]) -> int:
        """Create a running trial of this process, and return its id."""
        attrs = {"params": dict(params), "worker": worker_name(), "alive": time.time()}
        trial = create_trial(
            state=TrialState.RUNNING,
            params={name: params[name] for name in self._space},
            distributions=self._space,
            user_attrs=attrs,
        )
        return int(self._storage.create_new_trial(self._study._study_id, trial))

    def others_running(self) -> bool:
        """Whether other processes are running trials, after which more may have to be done."""
        trials = self.trials()
        return any(trial.state == "running" and trial.number not in self._ids for trial in trials)

    def _start_heartbeat(self) -> None:
        """Send heartbeats from a thread: neither a long step nor an unreachable database makes a
        live trial look dead."""
        if self._heartbeat is None:
            self._heartbeat = threading.Thread(target=self._send_heartbeats, daemon=True)
            self._heartbeat.start()

    def _send_heartbeats(self) -> None:
        while True:
            time.sleep(LEASE_S / 60)
            for number, trial_id in list(self._ids.items()):
                if time.time() - self._alive.get(number, 0.0) > LEASE_S / 10:
                    try:
                        self._note(trial_id, alive=time.time())
                    except Exception:  # (closed meanwhile, or long unreachable: next time)
                        continue
                    self._alive[number] = time.time()

    def note(self, trial: Trial, **attrs: Any) -> None:  # noqa: ANN401
        """Store facts about a running trial as JSON."""
        self._note(self._ids[trial.number], **attrs)

    def _note(self, trial_id: int, **attrs: Any) -> None:  # noqa: ANN401
        with suppress(UpdateFinishedTrialError):  # another process took it for dead
            for name, value in attrs.items():
                self._storage.set_trial_user_attr(trial_id, name, value)

    def pause(self, trial: Trial) -> None:
        """Pause a trial at its rung; it is resumed or pruned when the others have reached it."""
        trial_id = self._ids.pop(trial.number)
        self._note(trial_id, losses=self._losses(trial_id))
        with suppress(UpdateFinishedTrialError):  # another process took it for dead
            self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def _losses(self, trial_id: int) -> list[tuple[int, float]]:
        """Tokens seen at each validation, with the loss there."""
        return sorted(self._storage.get_trial(trial_id).intermediate_values.items())

    def record_loss(self, trial: Trial, tokens: int, loss: float) -> None:
        """Store the validation loss after `tokens` tokens."""
        trial_id = self._ids[trial.number]
        self._storage.set_trial_intermediate_value(trial_id, tokens, loss)

    def should_prune(self, trial: Trial, tokens: int, loss: float) -> bool:
        """Store the validation loss after `tokens` tokens. Return whether to prune the trial,
        because the loss lies above the median of its arm."""
        self.record_loss(trial, tokens, loss)
        trial_id = self._ids[trial.number]
        first = self.design.seeds[0]
        if self._pruner is None or trial.spec.seed != first or tokens >= trial.spec.trained_tokens:
            return False

        def belongs(other: FrozenTrial) -> bool:
            params = other.user_attrs.get("params", {})
            return (params.get("remove"), params.get("seed")) == (trial.params["remove"], first)

        arm = ArmView(self._study, belongs)
        return bool(self._pruner.prune(arm, self._storage.get_trial(trial_id)))

    def prune(self, trial: Trial, reason: str) -> None:
        """Close a trial that is ended early."""
        losses = self._losses(self._ids[trial.number])
        self.note(trial, pruned=reason, losses=losses)
        self._close(self._ids.pop(trial.number), TrialState.PRUNED, losses[-1][1])

    def complete(self, trial: Trial, value: float) -> bool:
        """Close a trial with its validation loss. Return False if another process took it for dead,
        and runs its cell again or reuses our result."""
        if self.design.pruning != "none":
            self.note(trial, losses=self._losses(self._ids[trial.number]))
        return self._close(self._ids.pop(trial.number), TrialState.COMPLETE, value)

    def fail(self, trial: Trial, fault: str, *, again: bool, interrupted: bool = False) -> None:
        """Close a trial without a value. With `again` the next start repeats the cell; if the trial
        was `interrupted`, so does this start, and resumes from its checkpoint."""
        start_id = "" if interrupted else self._start_id
        self.note(trial, fault=fault, final=not again, failed_in=start_id, interrupted=interrupted)
        self._close(self._ids.pop(trial.number), TrialState.FAIL)

    def _close(self, trial_id: int, state: TrialState, value: float | None = None) -> bool:
        """Close a trial. Return whether it is closed in this state and with this value now, by this
        call or by an earlier one whose answer was lost."""
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
        found = {t.number: t for t in self._storage.read(study_id, base, self._ended)}
        self._ended |= {number: trial for number, trial in found.items() if trial.has_ended}
        return [trial for _, trial in sorted((self._ended | found).items())]

    def trial(self, number: int) -> Trial:
        """A trial as it is stored now."""
        return next(trial for trial in self.trials() if trial.number == number)

    def running(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those of `trials` that are running, with their validation losses so far."""
        return [with_losses(self._storage, trial) for trial in trials if trial.state == "running"]

    def n_open(self) -> int:
        """The number of trials that are still to be run, as far as is known now."""
        over = [trial for trial in self.trials() if trial.is_done or trial.attrs.get("final")]
        return max(0, self.design.n_trials - len(over))


def _completed(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A stored definition, with the settings that were added later at their defaults."""
    base = dataclasses.asdict(TrialSpec(**definition["base"]))
    later = {"pruning": "none", "precision": "float32", "version": UNNAMED_VERSION}
    return {**later, **definition, "base": base}
