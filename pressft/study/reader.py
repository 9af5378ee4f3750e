"""A study as its storage has it, for those who only look, or close what nobody works on."""

import dataclasses
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from pressft.spec import TrialSpec
from pressft.study import storage
from pressft.study.liveness import is_gone
from pressft.study.trials import Row, row_of


@dataclass(frozen=True, slots=True)
class Stored:
    """A study as its storage knows it: base spec, hashes of weights and corpus, trials; its
    question, how many trials it asks for, its prompts, where it was run, and the counts of its
    corpus (as `corpus.summary`; none in a study of an older version)."""

    base: TrialSpec
    weights: str
    corpus: str
    rows: list[Row]
    definition: Mapping[str, Any]
    question: str
    asked: int
    prompts: Mapping[str, Any]
    environment: Mapping[str, Any]
    corpus_summary: Mapping[str, Any]

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


@dataclass(frozen=True, slots=True)
class Running:
    """A trial at work: who has it, and how far it is by its last validation."""

    number: int
    arm: str
    worker: str
    tokens: int
    of: int
    loss: float | None  # of validation, nats a token

    def __str__(self) -> str:
        """Arm, tokens and loss in a few words."""
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        return f"{self.arm} {self.tokens:,} of {self.of:,} tokens{loss}"


def running(name: str, address: str) -> list[Running]:
    """The trials at work, by number.

    Raises:
        As `read`.
    """
    opened = storage.backend(address)
    study = storage.connect(opened, name, create=False)
    base = TrialSpec(**study.user_attrs["definition"]["base"])
    return at_work(opened, study._study_id, base)


def at_work(
    opened: storage.Patient, study_id: int, base: TrialSpec, over: Container[int] = ()
) -> list[Running]:
    """The trials at work, of those not known to be `over`."""
    found = []
    for trial in opened.read(study_id, over):
        if trial.state != TrialState.RUNNING:
            continue
        row, seen = row_of(trial), opened.get_trial(trial.trial_id).intermediate_values
        spec = dataclasses.replace(base, **dict(row.params))  # type: ignore[arg-type]
        tokens = max(seen, default=0)
        worker = str(row.attrs.get("worker", ""))
        found.append(
            Running(row.number, row.arm, worker, tokens, spec.trained_tokens, seen.get(tokens))
        )
    return found


def read(name: str, address: str) -> Stored:
    """A stored study, for those who only look.

    Raises:
        UsageError: no such study; the message names those there are.
    """
    opened = storage.backend(address)
    study = storage.connect(opened, name, create=False)
    definition = study.user_attrs["definition"]
    base = TrialSpec(**definition["base"])
    attrs = study.user_attrs
    return Stored(
        base=base,
        weights=definition["weights"],
        corpus=definition["corpus"],
        rows=[row_of(trial) for trial in opened.read(study._study_id)],
        definition=definition,
        question=attrs.get("question", ""),
        asked=attrs.get("asked", 0),
        prompts=attrs.get("prompts", {}),
        environment=attrs.get("environment", {}),
        corpus_summary=attrs.get("corpus_summary", {}),
    )


def names(address: str) -> list[str]:
    """Names of all studies in a storage.

    Raises:
        MissingError: it cannot be opened.
    """
    with storage.opening():
        return sorted(optuna.get_all_study_names(storage.backend(address)))


def is_dead(row: Row) -> bool:
    """Whether the process that had a running trial is gone."""
    return is_gone(str(row.attrs.get("worker", "")), float(row.attrs.get("alive", 0.0)))


def end(name: str, address: str, number: int) -> None:
    """Close a trial that nobody works on any more; the next sweep runs its cell again."""
    study = storage.connect(storage.backend(address), name, create=False)
    study.tell(number, state=TrialState.FAIL)
