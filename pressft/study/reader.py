"""Read a stored study without running it, and close trials whose process is dead."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from pressft.spec import TrialSpec
from pressft.study import storage
from pressft.study.liveness import is_gone
from pressft.study.trials import Trial, now_ms

ENVIRONMENT = "environment-"  # prefix of the study attributes that each hold one environment


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored study: base spec, hashes of weights and corpus, trials, definition, question, number
    of trials asked for, prompts, the environment of its last start, the environments that its
    trials name, datasets, and the corpus in numbers (as `corpus.summary` gives it; empty in a study
    of an older version)."""

    name: str
    base: TrialSpec
    weights: str
    corpus: str
    trials: list[Trial]
    definition: Mapping[str, Any]
    question: str
    asked: int
    prompts: Mapping[str, Any]
    environment: Mapping[str, Any]
    environments: Mapping[str, Mapping[str, Any]]
    datasets: Sequence[Mapping[str, Any]]
    corpus_summary: Mapping[str, Any]

    @property
    def running(self) -> list[Trial]:
        """The running trials by number, with their validation losses so far."""
        return [trial for trial in self.trials if trial.state == "running"]

    @property
    def varied(self) -> list[str]:
        """The settings, arms left out, that take several numbers."""
        return [
            name
            for name, values in self.definition["space"].items()
            if name != "remove"
            and (isinstance(values, dict) or len(values) > 1)
            and not any(isinstance(value, str) for value in values if isinstance(values, list))
        ]


def with_losses(opened: storage.RetryingStorage, trial: Trial) -> Trial:
    """The trial with its validation losses so far."""
    seen = sorted(opened.get_trial(trial.id).intermediate_values.items())
    return dataclasses.replace(trial, attrs={**trial.attrs, "losses": seen})


def read(name: str, address: str) -> Stored:
    """Read a stored study.

    Raises:
        UsageError: no such study; the message names the existing ones.
    """
    opened = storage.backend(address)
    study = storage.connect(opened, name, create=False)
    attrs = study.user_attrs
    definition = attrs["definition"]
    base = TrialSpec(**definition["base"])
    trials = [
        with_losses(opened, trial) if trial.state == "running" else trial
        for trial in opened.read(study._study_id, base)
    ]
    return Stored(
        name=name,
        base=base,
        weights=definition["weights"],
        corpus=definition["corpus"],
        trials=trials,
        definition=definition,
        question=attrs.get("question", ""),
        asked=attrs.get("asked", 0),
        prompts=attrs.get("prompts", {}),
        environment=attrs.get("environment", {}),
        environments={
            key.removeprefix(ENVIRONMENT): value
            for key, value in attrs.items()
            if key.startswith(ENVIRONMENT)
        },
        datasets=attrs.get("datasets", ()),
        corpus_summary=attrs.get("corpus_summary", {}),
    )


def names(address: str) -> list[str]:
    """The names of all studies in a storage.

    Raises:
        MissingError: the storage cannot be opened.
    """
    with storage.opening():
        return sorted(optuna.get_all_study_names(storage.backend(address)))


def is_dead(trial: Trial) -> bool:
    """Whether the process that ran a trial is dead."""
    return is_gone(str(trial.attrs.get("worker", "")), float(trial.attrs.get("alive", 0.0)))


def end(name: str, address: str, number: int) -> None:
    """Close a running trial whose process is dead; the next sweep runs its cell again."""
    opened = storage.backend(address)
    study = storage.connect(opened, name, create=False)
    trial = next(t for t in opened.read(study._study_id) if t.number == number)
    for key, value in {"died_in": "", "fault": "its process died", "ended": now_ms()}.items():
        opened.set_trial_user_attr(trial.id, key, value)
    study.tell(number, state=TrialState.FAIL)
