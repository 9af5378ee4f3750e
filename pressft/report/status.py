"""How far a study is, read from Optuna's storage and the files of its cells. No torch here."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pressft.errors import UsageError
from pressft.report import finding as arms
from pressft.report.finding import Done, Finding
from pressft.spec import WHOLE
from pressft.study import reader, scans
from pressft.study.locations import Locations
from pressft.study.reader import Stored
from pressft.study.results import Store, Untrained
from pressft.study.trials import Trial


@dataclass(frozen=True, slots=True)
class Look:
    """A stored study, its complete trials by arm, and what it found so far."""

    found: Stored
    untrained: Mapping[str, Untrained]  # by arm, the whole model first
    trials: Mapping[str, Sequence[Done]]
    chosen: Mapping[str, Sequence[Done]]  # of each arm the best configuration, one trial a seed
    finding: Finding


def find(study: str, locations: Locations) -> Stored:
    """A stored study.

    Raises:
        UsageError: no such study.
        MissingError: the storage cannot be opened.
    """
    if not locations.optuna_url and not (locations.root / "optuna.db").is_file():
        raise UsageError(
            f"no study {study!r}: nothing has been run in {locations.root} yet; "
            "start with `pressft sweep experiments/smoke.py`"
        )
    return reader.read(study, locations.storage)


def finding(study: str, locations: Locations) -> Finding:
    """What a stored study found, as far as it is.

    Raises:
        UsageError, MissingError: as `find`.
    """
    return look(study, locations).finding


def look(study: str, locations: Locations) -> Look:
    """A stored study, as far as it is.

    Raises:
        UsageError, MissingError: as `find`.
    """
    found, store = find(study, locations), Store(locations.root)
    keys = {
        trial.arm: str(trial.attrs["untrained"])
        for trial in found.trials
        if "untrained" in trial.attrs
    }
    untrained = {
        arm: (cut, store.cost(key), store.answers(key))
        for arm, key in sorted(keys.items(), key=_whole_first)
        if (cut := store.untrained(key))
    }
    trials = by_arm(found.trials, store)
    chosen = {arm: arms.choose(done) for arm, done in trials.items()}
    answers_by_arm = {
        arm: store.answers(done[0].result.cell) for arm, done in chosen.items() if done
    }
    scan = scans.find(locations.root, found.weights, found.corpus.split("+")[0])
    early = Counter(trial.arm for trial in found.trials if trial.state == "pruned")
    summed_up = arms.finding(untrained, trials, answers_by_arm, scan, early)
    cuts = {arm: cut for arm, (cut, _, _) in untrained.items()}
    return Look(found, cuts, trials, chosen, summed_up)


def is_done(found: Stored) -> bool:
    """Whether a study has all the trials that it asks for."""
    return _done(found) >= found.asked


def progress(found: Stored) -> str:
    """How many trials are done, ended early, rest, failed."""
    early = sum(trial.state == "pruned" for trial in found.trials)
    done = {trial.key for trial in found.trials if trial.state != "fail"}
    failed = {trial.key for trial in found.trials if trial.state == "fail"} - done
    text = f"{_done(found)} of {max(found.asked, _done(found))} trials done"
    text += f", {early} of them ended early" if early else ""
    resting = sum(trial.is_paused for trial in found.trials)
    text += f", {resting} rest at a rung" if resting else ""
    return text + (f", {len(failed)} failed" if failed else "")


def _done(found: Stored) -> int:
    return sum(trial.is_done for trial in found.trials)


def by_arm(trials: Sequence[Trial], store: Store) -> dict[str, list[Done]]:
    """The complete trials that have a result, by arm."""
    found: dict[str, list[Done]] = {}
    for trial in trials:
        cell = trial.cell
        if trial.state == "complete" and trial.value is not None and store.has(cell):
            params = {name: value for name, value in trial.params.items() if name != "seed"}
            config = json.dumps(params, sort_keys=True)
            done = Done(trial.number, config, trial.value, partial(store.known, cell))
            found.setdefault(trial.arm, []).append(done)
    return found


def _whole_first(item: tuple[str, str]) -> bool:
    return item[0] != WHOLE
