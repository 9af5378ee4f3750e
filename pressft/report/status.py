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
from pressft.study.reader import Running, Stored
from pressft.study.results import Store
from pressft.study.trials import Row


@dataclass(frozen=True, slots=True)
class Look:
    """A stored study, its complete trials by arm, and what it found so far."""

    found: Stored
    trials: Mapping[str, Sequence[Done]]
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
    keys = {row.arm: str(row.attrs["untrained"]) for row in found.rows if "untrained" in row.attrs}
    untrained = {
        arm: (cut, store.cost(key), store.answers(key))
        for arm, key in sorted(keys.items(), key=_whole_first)
        if (cut := store.untrained(key))
    }
    trials = by_arm(found.rows, store)
    chosen = {arm: arms.choose(done) for arm, done in trials.items()}
    answers_by_arm = {
        arm: store.answers(done[0].result.cell) for arm, done in chosen.items() if done
    }
    scan = scans.find(locations.root, found.weights, found.corpus.split("+")[0])
    early = Counter(row.arm for row in found.rows if row.state == "pruned")
    return Look(found, trials, arms.finding(untrained, trials, answers_by_arm, scan, early))


def running(study: str, locations: Locations) -> list[Running]:
    """The trials of a stored study that are at work."""
    return reader.running(study, locations.storage)


def is_done(found: Stored) -> bool:
    """Whether a study has all the trials that it asks for."""
    return _done(found) >= found.asked


def progress(found: Stored) -> str:
    """How many trials are done, ended early, rest, failed."""
    early = sum(row.state == "pruned" for row in found.rows)
    done = {row.key for row in found.rows if row.state != "fail"}
    failed = {row.key for row in found.rows if row.state == "fail"} - done
    text = f"{_done(found)} of {max(found.asked, _done(found))} trials done"
    text += f", {early} of them ended early" if early else ""
    resting = sum(row.rests for row in found.rows)
    text += f", {resting} rest at a rung" if resting else ""
    return text + (f", {len(failed)} failed" if failed else "")


def _done(found: Stored) -> int:
    return sum(row.is_done for row in found.rows)


def by_arm(rows: Sequence[Row], store: Store) -> dict[str, list[Done]]:
    """The complete trials that have a result, by arm."""
    found: dict[str, list[Done]] = {}
    for row in rows:
        cell = str(row.attrs.get("cell", ""))
        if row.state == "complete" and row.value is not None and store.has(cell):
            params = {name: value for name, value in row.params.items() if name != "seed"}
            config = json.dumps(params, sort_keys=True)
            done = Done(row.number, config, row.value, partial(store.known, cell))
            found.setdefault(row.arm, []).append(done)
    return found


def _whole_first(item: tuple[str, str]) -> bool:
    return item[0] != WHOLE
