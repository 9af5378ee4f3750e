"""What MLflow shows of a trial: a pure projection of Optuna's storage and of the stored results.

The sweep builds it while a trial runs, the doctor from what is stored; both build the same (law 9).
"""

import dataclasses
import hashlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pressft._files import digest
from pressft.corpus.format import SPLITS, Article, Corpus
from pressft.report.finding import Finding
from pressft.score import total
from pressft.spec import WHOLE, Removal, TrialSpec
from pressft.study.prompts import Prompts
from pressft.study.reader import Stored
from pressft.study.results import Point, Store, TrialResult, Untrained
from pressft.study.scans import CRITERIA, Scan
from pressft.study.trials import Trial

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "optuna", "mlflow")
VERSION_TAG = "pressft.version"  # of a run in MLflow that holds all it is to hold
NOTE = "mlflow.note.content"  # Markdown, rendered with its pictures
VERSION = 2  # raise it when the same trial would be shown differently
SCANS = "scan"  # experiment of all scans
SCAN_QUESTION = "What removing each part costs before any training."
SINGLE = "run-"  # prefix of the names of studies of one trial
STATES = {"running": "RUNNING", "complete": "FINISHED", "pruned": "KILLED", "waiting": "SCHEDULED"}


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset of a run; `digest` is our own sha256, because MLflow's covers 10,000 rows only."""

    name: str
    digest: str
    source: str
    context: str  # training, validation or test
    profile: str  # JSON


@dataclass(frozen=True, slots=True)
class Run:
    """All that MLflow shows of a trial or a scan, identified by `record` within its experiment.

    Times are milliseconds since 1970. `version` identifies the state that is shown, and is written
    last: a run that has it in MLflow is complete.
    """

    record: str
    name: str
    status: str = "FINISHED"
    started: int = 0
    ended: int | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[Data] = ()
    points: Sequence[Point] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None  # its files become artifacts
    version: str = ""


def experiment(study: str) -> str:
    """The name of a study's MLflow experiment; studies of a single trial share one."""
    return "runs" if study.startswith(SINGLE) else study


def with_run(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that have a run of their own, by number. A trial that resumes an interrupted one
    takes over its run, which then shows the later trial."""
    last = {str(trial.attrs["record"]): trial for trial in trials if "record" in trial.attrs}
    return sorted(last.values(), key=lambda trial: trial.number)


def state(trial: Trial) -> str:
    """16 hex digits that identify what a run shows of a trial, and change when that changes."""
    attrs = {key: value for key, value in trial.attrs.items() if key not in {"alive", "worker"}}
    return digest([VERSION, trial.number, trial.state, attrs])


def of_trial(stored: Stored, trial: Trial, store: Store) -> Run:
    """The run of a trial that has a record.

    Its curve is that of its result or, without one, the curve that was stored when it ended.

    Raises:
        DataError: the storage names an invalid cell.
    """
    spec, record = trial.spec, str(trial.attrs["record"])
    cut = store.untrained(str(trial.attrs["untrained"])) if "untrained" in trial.attrs else None
    result = store.trial(trial.cell) if trial.state == "complete" else None
    environment = stored.environments.get(str(trial.attrs.get("environment")), {})
    tags = _tags(stored, trial) | {"git_commit": str(environment.get("commit", "none"))}
    texts = {"environment.json": json.dumps(environment, indent=2)}
    points = store.curve(trial.cell, record)
    if result and cut:
        points = (*result.curve, Point(result.tokens, test_metrics(result, cut), _ended(trial)))
        columns = {"untrained": cut.samples, "trained": result.samples}
        texts["samples.md"] = samples(columns)
        tags[NOTE] = note(result, cut)
    return Run(
        record=record,
        name=name(spec),
        status=_status(trial),
        started=int(trial.attrs.get("started", 0)),
        ended=_ended(trial),
        params=_params(spec, cut),
        tags=tags,
        datasets=[Data(**item) for item in stored.datasets],
        points=points,
        texts=texts,
        folder=store.adapter(trial.cell) if result else None,
        version=state(trial) if trial.state != "running" else "",
    )


def of_scan(scan: Scan, key: str) -> Run:
    """The run of a scan, with curves over the index of the first removed layer."""
    names = {"layers": "perplexity"}
    points = []
    for kind in ("layers", "attention", "mlp", "blocks"):
        for index, cut in enumerate(scan.kind(kind)):
            metrics = {f"scan/{names.get(kind, kind)}": cut.score.perplexity}
            if kind == "layers":
                metrics |= {f"scan/{name}": getattr(cut, name) for name in CRITERIA}
            points.append(Point(index, metrics, scan.made))
    return Run(
        record=f"scan-{key}",
        name=f"{scan.model} on {scan.corpus}",
        started=scan.made,
        ended=scan.made,
        params={key: str(value) for key, value in scan.settings.items()},
        tags={"study": SCANS, "arm": "all", "corpus": scan.fingerprint},
        points=points,
        texts={"scan.csv": scan.as_csv()},
        version=f"{key}-{VERSION}",
    )


def _status(trial: Trial) -> str:
    """MLflow's status for a trial: KILLED if it was interrupted, FAILED if it failed by a fault."""
    cut_short = trial.attrs.get("interrupted") or "died_in" in trial.attrs
    return STATES.get(trial.state, "KILLED" if cut_short else "FAILED")


def _ended(trial: Trial) -> int:
    return int(trial.attrs.get("ended", 0))


def _tags(stored: Stored, trial: Trial) -> dict[str, str]:
    """The tags by which runs are found and grouped, and which say how the trial ended."""
    tags = {
        "study": stored.name,
        "arm": trial.arm,
        "trial": str(trial.number),
        "cell": trial.cell,
        "corpus": stored.corpus,
    }
    for key in ("fault", "pruned"):
        if trial.state != "running" and (why := trial.attrs.get(key)):
            tags[key] = str(why)
    if trial.state == "complete":
        tags["reused"] = str(bool(trial.attrs.get("reused"))).lower()
    return tags


def _params(spec: TrialSpec, cut: Untrained | None) -> dict[str, str]:
    """The fields of TrialSpec, and the layers that `remove` stood for."""
    params = {key: str(value) for key, value in dataclasses.asdict(spec).items()}
    return params | ({"remove_layers": str(list(cut.removal.parts))} if cut else {})


def name(spec: TrialSpec) -> str:
    """Arm, rank and learning rate, and the seed unless it is 0: `middle r8 lr0.0002`."""
    seed = f" s{spec.seed}" if spec.seed else ""
    return f"{spec.remove} r{spec.rank} lr{spec.learning_rate:g}{seed}"


def note(result: TrialResult, cut: Untrained) -> str:
    """The result of a trial in one Markdown sentence."""
    return (
        f"{_removed(result.removal)}: test perplexity **{result.test_score.perplexity:,.1f}**, "
        f"untrained {total(cut.test).perplexity:,.1f}. Trained on {result.tokens:,} tokens in "
        f"{result.training_s:,.0f} s; validation loss {result.validation.loss:.4f} nats per token."
    )


def _removed(removal: Removal) -> str:
    parts, n = ", ".join(map(str, removal.parts)), len(removal.layers)
    if not parts:
        return "The whole model"
    if removal.halves:
        return f"{parts} removed (of {removal.of} layers)"
    return f"Layer{'s' if n > 1 else ''} {parts} removed ({n} of {removal.of})"


def test_metrics(result: TrialResult, cut: Untrained) -> dict[str, float]:
    """The metrics on the test split, which are logged once, after training."""
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
    """The three splits of the corpus, each with a sha256 over the ids and texts of its articles."""
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
    """Continuations side by side, as Markdown in which model text is never interpreted."""
    parts = ["Greedy continuations of the first words of validation texts.\n"]
    for number, texts in enumerate(zip(*columns.values(), strict=True), 1):
        parts.append(f"## {number}\n")
        for column, text in zip(columns, texts, strict=True):
            parts.append(f"{column}:\n\n" + "\n".join(f"    {line}" for line in text.splitlines()))
    return "\n\n".join(parts) + "\n"


def answers_by_arm(finding: Finding, prompts: Prompts) -> dict[str, list[dict[str, object]]]:
    """Tables `continuations` and `answers` with the answers of all models side by side."""
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
            continue  # the whole model is shown beside each of the others
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
    """The command, the commit, and the versions of Python and the packages that affect results."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {
        "command": re.sub(r"://[^@/\s]*@", "://…@", command),  # without passwords in URLs
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: version(package) for package in PACKAGES},
    }


@cache
def commit() -> str:
    """The commit of the working folder; `none` outside a repository."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return done.stdout.strip() if done.returncode == 0 else "none"
