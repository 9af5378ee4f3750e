"""Which decoder layer can be removed, and what does that cost once the model is fine-tuned?

The names in `__all__` are the library, for notebooks and experiments. Each is imported when it is
first used: `import pressft` itself loads no torch, Optuna or MLflow.
"""

import logging
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pressft.corpus.load import load_corpus as load_corpus
    from pressft.demo.study import SMALL as SMALL
    from pressft.errors import PressftError as PressftError
    from pressft.evaluation.perplexity import perplexity as perplexity
    from pressft.model.adapter import load_adapter as load_adapter
    from pressft.model.base import load_model as load_model
    from pressft.model.surgery import remove as remove
    from pressft.model.surgery import removed as removed
    from pressft.report.frames import arms as arms
    from pressft.report.frames import finding as finding
    from pressft.report.frames import trials as trials
    from pressft.scan import run_scan as run_scan
    from pressft.score import Score as Score
    from pressft.spec import Removal as Removal
    from pressft.spec import ScanSpec as ScanSpec
    from pressft.spec import TrialSpec as TrialSpec
    from pressft.study.results import TrialResult
    from pressft.study.study import Choices as Choices
    from pressft.study.study import Range as Range
    from pressft.study.study import Study as Study
    from pressft.sweep import Outcome

__all__ = [
    "SMALL",
    "Choices",
    "PressftError",
    "Range",
    "Removal",
    "ScanSpec",
    "Score",
    "Study",
    "TrialSpec",
    "arms",
    "finding",
    "load_adapter",
    "load_corpus",
    "load_model",
    "perplexity",
    "remove",
    "removed",
    "run_scan",
    "run_sweep",
    "run_trial",
    "trials",
]
_MODULES = {
    "corpus.load": ["load_corpus"],
    "demo.study": ["SMALL"],
    "errors": ["PressftError"],
    "evaluation.perplexity": ["perplexity"],
    "model.adapter": ["load_adapter"],
    "model.base": ["load_model"],
    "model.surgery": ["remove", "removed"],
    "report.frames": ["arms", "finding", "trials"],
    "scan": ["run_scan"],
    "score": ["Score"],
    "spec": ["Removal", "ScanSpec", "TrialSpec"],
    "study.study": ["Choices", "Range", "Study"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

# said on import of bitsandbytes, of a kernel pack for CPUs that we do not use
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def run_sweep(
    study: "Study",
    *,
    root: str | Path = "mlruns",
    storage: str | None = None,
    tracking_uri: str | None = None,
) -> "Outcome":
    """Run a study, or go on with it where it was left; progress goes to stderr.

    Files are kept under `root`; trials in Optuna's `storage` and runs at MLflow's `tracking_uri`,
    by default SQLite under `root`.

    Raises:
        PressftError: a model, a corpus or a store cannot be used, or the study is being run by
            another process or exists with another definition.
    """
    from pressft import sweep
    from pressft.progress import reporter
    from pressft.study.locations import Locations

    with reporter() as report:
        return sweep.run_sweep(study, report, Locations(Path(root), storage, tracking_uri))


def run_trial(
    spec: "TrialSpec",
    *,
    root: str | Path = "mlruns",
    storage: str | None = None,
    tracking_uri: str | None = None,
) -> "TrialResult":
    """The result of one trial, from an earlier run where there is one: what `pressft run` does.

    Raises:
        PressftError: as `run_sweep`; a trial that failed, with the reason.
    """
    from pressft import sweep
    from pressft.study.locations import Locations

    study = sweep.study_of(spec)
    run_sweep(study, root=root, storage=storage, tracking_uri=tracking_uri)
    return sweep.single_result(study.name, Locations(Path(root), storage, tracking_uri))


if not TYPE_CHECKING:  # or a misspelt name would pass for one of unknown type

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'pressft' has no attribute {name!r}")
        value = getattr(import_module(f"pressft.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
