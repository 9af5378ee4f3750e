"""What is measured on the models of a study once its trials are done, and kept beside their
scores: what each cut takes to run, and what each model makes of prompts and questions.
"""

from collections.abc import Mapping, Sequence

from pressft import trial
from pressft._assets import Progress
from pressft.context import Bench
from pressft.evaluation import answers
from pressft.evaluation import cost as costs
from pressft.model import adapter
from pressft.spec import TrialSpec, resolve
from pressft.study.prompts import Material
from pressft.study.results import TrialResult


def measure_costs(bench: Bench, arms: Sequence[TrialSpec], progress: Progress) -> None:
    """Measure all the cuts in turn, unless each has been on this machine."""
    keys = {spec.remove: trial.untrained_key(bench, spec) for spec in arms}
    known = {arm: bench.store.cost(key) for arm, key in keys.items()}
    if all(cost and cost.machine == costs.machine() for cost in known.values()):
        return
    cuts = {spec.remove: resolve(spec.remove, bench.base.n_layers) for spec in arms}
    for arm, cost in costs.measure(bench.base, cuts, progress).items():
        bench.store.save_cost(keys[arm], cost)


def read(
    bench: Bench,
    arms: Sequence[TrialSpec],
    trained: Mapping[str, TrialResult],
    material: Material,
    progress: Progress,
) -> None:
    """Let every cut base and every arm's trained model read, unless it has read this before."""
    if not material:
        return
    key, store, model = answers.key(material), bench.store, bench.base.model
    for done, spec in enumerate(arms):
        progress("reading prompts and questions", done, len(arms))
        untrained, result = trial.untrained_key(bench, spec), trained.get(spec.remove)
        with trial.cut(bench, spec) as removal:
            if (known := store.reading(untrained)) is None or known.key != key:
                store.save_reading(untrained, answers.read(model, bench.base.tokenizer, material))
            if result is None:
                continue
            if (known := store.reading(result.cell)) is None or known.key != key:
                folder = store.folder(result.cell) / "adapter"
                with adapter.loaded(model, removal, bench.base.identity, folder) as healed:
                    found = answers.read(healed, bench.base.tokenizer, material)
                store.save_reading(result.cell, found)
    progress("reading prompts and questions", len(arms), len(arms))
