"""How far a study is, read from Optuna's storage and the files of its cells. No torch here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pressft import arms
from pressft.arms import Arm, Done
from pressft.errors import UsageError
from pressft.results import Store
from pressft.study import Row, Stored, stored


@dataclass(frozen=True, slots=True)
class Stores:
    """Where a study keeps what: files under `root`, trials in Optuna's storage, runs in MLflow.

    Both default to SQLite under `root`.
    """

    root: Path
    optuna_url: str | None = None
    tracking_uri: str | None = None

    @property
    def storage(self) -> str:
        """URL of Optuna's storage."""
        return self.optuna_url or f"sqlite:///{self.root.resolve() / 'optuna.db'}"


def find(study: str, stores: Stores) -> Stored:
    """A stored study.

    Raises:
        UsageError: no such study.
        MissingError: the storage cannot be opened.
    """
    if not stores.optuna_url and not (stores.root / "optuna.db").is_file():
        raise UsageError(
            f"no study {study!r}: nothing has been run in {stores.root} yet; "
            "start with `pressft sweep experiments/smoke.py`"
        )
    return stored(study, stores.storage)


def table(study: str, stores: Stores) -> list[Arm]:
    """The rows of a stored study's arms, as far as they are.

    Raises:
        UsageError, MissingError: as `find`.
    """
    rows = find(study, stores).rows
    store = Store(stores.root)
    keys = {row.arm: str(row.attrs["untrained"]) for row in rows if "untrained" in row.attrs}
    found = {arm: store.untrained(key) for arm, key in sorted(keys.items(), key=_whole_first)}
    return arms.arms({arm: cut for arm, cut in found.items() if cut}, by_arm(rows, store))


def by_arm(rows: Sequence[Row], store: Store) -> dict[str, list[Done]]:
    """The complete trials with their results, by arm."""
    found: dict[str, list[Done]] = {}
    for row in rows:
        if row.state == "complete" and (result := store.trial(str(row.attrs["cell"]))):
            params = {name: value for name, value in row.params.items() if name != "seed"}
            config = json.dumps(params, sort_keys=True)
            found.setdefault(row.arm, []).append(Done(row.number, config, result))
    return found


def _whole_first(item: tuple[str, str]) -> bool:
    return item[0] != arms.WHOLE
