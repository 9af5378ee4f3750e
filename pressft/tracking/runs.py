"""How a trial looks in MLflow: its name, params, tags, datasets and texts. Pure data, no store."""

import dataclasses
import hashlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pressft.corpus.format import SPLITS, Article, Corpus
from pressft.report.finding import Finding
from pressft.score import total
from pressft.spec import WHOLE, TrialSpec
from pressft.study.prompts import Prompts
from pressft.study.results import TrialResult, Untrained
from pressft.tracking.outbox import Data

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "optuna", "mlflow")


def name(spec: TrialSpec) -> str:
    """Arm, rank and learning rate, and the seed where it is not 0: `middle r8 lr0.0002`."""
    seed = f" s{spec.seed}" if spec.seed else ""
    return f"{spec.remove} r{spec.rank} lr{spec.learning_rate:g}{seed}"


def params(spec: TrialSpec, cut: Untrained) -> dict[str, object]:
    """TrialSpec's fields, and the layers that `remove` stood for."""
    return dataclasses.asdict(spec) | {"remove_layers": list(cut.removal.parts)}


def tags(study: str, arm: str, trial: int, cell: str, corpus: str) -> dict[str, object]:
    """What a run is found and grouped by; `corpus` is a fingerprint."""
    return {"study": study, "arm": arm, "trial": trial, "cell": cell, "corpus": corpus}


def note(result: TrialResult, cut: Untrained) -> str:
    """What a trial came to, in Markdown."""
    removal = result.removal
    parts = ", ".join(map(str, removal.parts))
    what = f"Without {parts} of {removal.of} layers" if parts else "The whole model"
    return (
        f"{what}: test perplexity **{result.test_score.perplexity:,.1f}**, "
        f"untrained {total(cut.test).perplexity:,.1f}. Trained on {result.tokens:,} tokens in "
        f"{result.training_s:,.0f} s; validation loss {result.validation.loss:.4f} nats a token."
    )


def test_metrics(result: TrialResult, cut: Untrained) -> dict[str, float]:
    """What is logged once, after training, on the test split."""
    score = result.test_score
    return {
        "test/loss": score.loss,
        "test/perplexity": score.perplexity,
        "test/bits_per_byte": score.bits_per_byte,
        "test/perplexity_untrained": total(cut.test).perplexity,
    } | (
        {
            "test/general_perplexity": total(result.general).perplexity,
            "test/general_perplexity_untrained": total(cut.general).perplexity,
        }
        if result.general
        else {}
    )


def datasets(corpus: Corpus, spec: TrialSpec) -> list[Data]:
    """The three splits, each with a sha256 over the ids and texts of its articles."""
    contexts = dict(zip(SPLITS, ("training", "validation", "test"), strict=True))
    source = json.dumps({"corpus": spec.corpus, "fingerprint": corpus.fingerprint})
    return [
        Data(
            name=f"{Path(spec.corpus).name}/{split}",
            digest=_digest(corpus.splits.part(split)),
            source=source,
            context=context,
            profile=json.dumps({"articles": len(corpus.splits.part(split))}),
        )
        for split, context in contexts.items()
    ]


def _digest(articles: Sequence[Article]) -> str:
    lines = "".join(f"{article.id} {article.sha256}\n" for article in articles)
    return hashlib.sha256(lines.encode()).hexdigest()


def samples(columns: Mapping[str, tuple[str, ...]]) -> str:
    """Continuations side by side, as Markdown; model text is shown, never interpreted."""
    parts = ["Greedy continuations of the first words of validation texts.\n"]
    for number, texts in enumerate(zip(*columns.values(), strict=True), 1):
        parts.append(f"## {number}\n")
        for column, text in zip(columns, texts, strict=True):
            parts.append(f"{column}:\n\n" + "\n".join(f"    {line}" for line in text.splitlines()))
    return "\n\n".join(parts) + "\n"


def answers_by_arm(finding: Finding, prompts: Prompts) -> dict[str, list[dict[str, object]]]:
    """What the models made of the prompts, side by side: tables `continuations` and `answers`."""
    whole = next((arm for arm in finding.arms if arm.arm == WHOLE), None)
    continuations: list[dict[str, object]] = []
    log_likelihoods: list[dict[str, object]] = []
    for arm in finding.arms:
        sides = {
            f"{name} {when}": answers
            for name, row in (("whole", whole), ("cut", arm if arm is not whole else None))
            if row
            for when, answers in (
                ("untrained", row.answers),
                ("trained", row.trained.answers if row.trained else None),
            )
            if answers
        }
        if (arm is whole and len(finding.arms) > 1) or not sides:
            continue  # it stands beside each of the others
        for number, prompt in enumerate(prompts.prompts):
            for how in ("greedy", "sampled"):
                texts = {side: getattr(answers, how)[number] for side, answers in sides.items()}
                continuations.append({"arm": arm.arm, "prompt": prompt, "decoding": how} | texts)
        for number, asked in enumerate(prompts.questions):
            nats = {side: -answers.scores[number].nats for side, answers in sides.items()}
            row = {"arm": arm.arm, "question": asked.question, "right answer": asked.answer}
            log_likelihoods.append(
                row | {f"log-likelihood, {side}": value for side, value in nats.items()}
            )
    tables = {"continuations": continuations, "answers": log_likelihoods}
    return {name: rows for name, rows in tables.items() if rows}


def environment() -> dict[str, str]:
    """The command, the commit, versions of Python and of the packages that numbers depend on."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {
        "command": re.sub(r"://[^@/\s]*@", "://…@", command),  # no password leaves the storage
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: version(package) for package in PACKAGES},
    }


@cache
def commit() -> str:
    """The commit of the working folder, `none` outside a repository."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return done.stdout.strip() if done.returncode == 0 else "none"
