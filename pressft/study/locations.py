"""Where the state of studies is kept. No torch, Optuna or MLflow here: every command needs it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Locations:
    """Where a study is kept: files under `root`, trials in Optuna's storage, runs in MLflow.

    Both default to SQLite under `root`.
    """

    root: Path
    optuna_url: str | None = None
    tracking_uri: str | None = None

    @property
    def storage(self) -> str:
        """The URL of Optuna's storage."""
        return self.optuna_url or f"sqlite:///{self.root.resolve() / 'optuna.db'}"
