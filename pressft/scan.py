"""A scan from start to end: load text and model, score every cut, store and show the result.

The computation is `evaluation.layer_scan`. A result is stored under `mlruns/scans`, from where it
is read the second time, and is logged to the MLflow experiment `scan` as curves over depth.
"""

import json
from dataclasses import asdict

from pressft._files import digest, write_atomically
from pressft.corpus import load
from pressft.corpus.format import Corpus
from pressft.evaluation import layer_scan
from pressft.model import base as models
from pressft.model import files
from pressft.model.tokens import separators, tokenize, up_to
from pressft.progress import Reporter
from pressft.spec import ScanSpec
from pressft.study.locations import Locations
from pressft.study.scans import Scan
from pressft.study.trials import now_ms
from pressft.tracking import runs
from pressft.tracking.client import Tracker
from pressft.tracking.sync import Sync

SCAN_VERSION = 2  # raise it when the same settings would give other numbers


def run(spec: ScanSpec, report: Reporter, locations: Locations) -> Scan:
    """The result of the scan that `spec` describes, computed or read from an earlier one.

    Raises:
        UsageError, DataError, MissingError: as `corpus.load.find` and `model.base.load`.
    """
    corpus = load.find(spec.corpus, report.setup)
    base = models.load(files.resolve(spec.model), spec.quantization, report.setup)
    return on(base, corpus, spec, report, locations)


def on(
    base: models.Base, corpus: Corpus, spec: ScanSpec, report: Reporter, locations: Locations
) -> Scan:
    """`run` with a model and a corpus that are loaded already."""
    key = digest([SCAN_VERSION, base.computed, corpus.fingerprint, asdict(spec) | {"model": ""}])
    path = locations.root / "scans" / f"{key}.json"
    if path.is_file():
        return Scan.from_json(path.read_text())
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
    result = Scan(
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
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(result)) + "\n")
    tracker = Tracker(locations.root, locations.tracking_uri)
    with Sync(tracker, runs.SCANS, runs.SCAN_QUESTION, report.say) as sync:
        sync.submit(runs.of_scan(result, key))
        if sync.flush():
            report.say("MLflow did not accept the scan: `pressft doctor --fix` writes it later")
    return result
