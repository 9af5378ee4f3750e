"""What is measured on the models of a study once its trials are done, and kept beside their
scores: what each cut takes to run, and what each model makes of prompts and questions.
"""

from collections.abc import Mapping, Sequence

from pressft import trial
from pressft._assets import Progress
from pressft.context import Context
from pressft.evaluation import answers
from pressft.evaluation import cost as costs
from pressft.model import adapter
from pressft.spec import TrialSpec, resolve
from pressft.study.prompts import Prompts
from pressft.study.results import TrialResult


def measure_costs(context: Context, arms: Sequence[TrialSpec], progress: Progress) -> None:
    """Measure all the cuts in turn, unless each has been on this machine."""
    keys = {spec.remove: trial.untrained_key(context, spec) for spec in arms}
    known = {arm: context.store.cost(key) for arm, key in keys.items()}
    if all(cost and cost.machine == costs.machine() for cost in known.values()):
        return
    cuts = {spec.remove: resolve(spec.remove, context.base.n_layers) for spec in arms}
    for arm, cost in costs.measure(context.base, cuts, progress).items():
        context.store.save_cost(keys[arm], cost)


def answer(
    context: Context,
    arms: Sequence[TrialSpec],
    trained: Mapping[str, TrialResult],
    prompts: Prompts,
    progress: Progress,
) -> None:
    """Let every cut base and every arm's trained model answer, unless it has done so before."""
    if not prompts:
        return
    key, store, model = answers.key(prompts), context.store, context.base.model
    for done, spec in enumerate(arms):
        progress("answering prompts and questions", done, len(arms))
        untrained, result = trial.untrained_key(context, spec), trained.get(spec.remove)
        with trial.cut(context, spec) as removal:
            if (known := store.answers(untrained)) is None or known.key != key:
                store.save_answers(
                    untrained, answers.answer(model, context.base.tokenizer, prompts)
                )
            if result is None:
                continue
            if (known := store.answers(result.cell)) is None or known.key != key:
                folder = store.folder(result.cell) / "adapter"
                with adapter.loaded(model, removal, context.base.identity, folder) as healed:
                    found = answers.answer(healed, context.base.tokenizer, prompts)
                store.save_answers(result.cell, found)
    progress("answering prompts and questions", len(arms), len(arms))
