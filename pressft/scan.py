"""A scan from start to end: load text and model, score every cut, store and show the result.

The computation is `evaluation.layer_scan`. A result is stored under `mlruns/scans`, from where it
is read the second time, and is logged to the MLflow experiment `scan` as curves over depth.
"""

import json
from dataclasses import asdict
from pathlib import Path

from pressft._files import digest, write_atomically
from pressft.corpus.format import Corpus
from pressft.corpus.load import load_corpus
from pressft.errors import UsageError
from pressft.evaluation import layer_scan
from pressft.model.base import Base, load_model
from pressft.model.surgery import is_cut
from pressft.model.tokens import separators, tokenize, up_to
from pressft.progress import Reporter, reporter
from pressft.spec import ScanSpec
from pressft.study.locations import Locations
from pressft.study.scans import Scan
from pressft.study.trials import now_ms
from pressft.tracking import runs
from pressft.tracking.client import Tracker
from pressft.tracking.sync import Sync

SCAN_VERSION = 2  # raise it when the same settings would give other numbers


def run_scan(  # noqa: PLR0913  (the settings of a ScanSpec that a loaded model leaves open)
    base: Base,
    corpus: Corpus,
    *,
    tokens: int = 2048,
    window: int = 512,
    halves: bool = True,
    block: int = 0,
    root: str | Path | None = None,
) -> Scan:
    """Score the removal of every layer, and half layer, of an untrained model in one pass over
    validation text; progress goes to stderr.

    Args:
        tokens: of validation text, at most, whole articles.
        window: tokens of context; the stride is half of it.
        halves: also each attention half and each MLP half.
        block: also each run of so many layers; 0: none.
        root: where the result is kept and logged to MLflow, and an earlier one is found: `mlruns`
            for that of the command line. By default nothing is written.

    Raises:
        UsageError: a setting out of its range, or a model already cut and a `root`.
    """
    spec = ScanSpec(
        model=base.name,
        corpus=str(corpus.folder),
        tokens=tokens,
        window=window,
        halves=halves,
        block=block,
        quantization=base.quantization,
    )
    if root is not None and is_cut(base.model):
        raise UsageError(
            f"{base.name} is cut already: a scan of the whole model is kept; load it anew, or give "
            "no root"
        )
    with reporter() as report:
        if root is None:
            return scan_with(base, corpus, spec, report)
        return stored_scan(base, corpus, spec, report, Locations(Path(root)))


def load_and_scan(spec: ScanSpec, report: Reporter, locations: Locations) -> Scan:
    """The scan that `spec` asks for, from an earlier one where there is one.

    Raises:
        UsageError, DataError, MissingError: as `load_corpus` and `load_model`.
    """
    corpus = load_corpus(spec.corpus, report.setup)
    base = load_model(spec.model, spec.quantization, report.setup)
    return stored_scan(base, corpus, spec, report, locations)


def stored_scan(
    base: Base, corpus: Corpus, spec: ScanSpec, report: Reporter, locations: Locations
) -> Scan:
    """As `load_and_scan`, of a model and a corpus that are loaded already."""
    key = digest([SCAN_VERSION, base.computed, corpus.fingerprint, asdict(spec) | {"model": ""}])
    path = locations.root / "scans" / f"{key}.json"
    if path.is_file():
        return Scan.from_json(path.read_text())
    result = scan_with(base, corpus, spec, report)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(result)) + "\n")
    tracker = Tracker(locations.root, locations.tracking_uri)
    with Sync(tracker, runs.SCANS, runs.SCAN_QUESTION, report.say) as sync:
        sync.submit(runs.of_scan(result, key))
        if sync.flush():
            report.say("MLflow did not accept the scan: `pressft doctor --fix` writes it later")
    return result


def scan_with(base: Base, corpus: Corpus, spec: ScanSpec, report: Reporter) -> Scan:
    """A new scan; nothing of it is kept."""
    texts = [article.text for article in corpus.splits.validation]
    documents = up_to(tokenize(texts, base.tokenizer), spec.tokens)
    report.plan(f"scan of {base.name}", sum(len(document.ids) for document in documents))
    whole, cuts = layer_scan.scan(
        base.model,
        documents,
        separators(base.tokenizer).before,
        spec.window,
        layer_scan.parts_of(base.n_layers, halves=spec.halves, block=spec.block),
        lambda n: report.advance("every cut in one pass", n),
    )
    return Scan(
        model=base.name,
        corpus=spec.corpus,
        weights=base.identity,
        fingerprint=corpus.fingerprint,
        n_layers=base.n_layers,
        base=whole,
        cuts=tuple(cuts),
        settings=asdict(spec),
        made=now_ms(),
    )
