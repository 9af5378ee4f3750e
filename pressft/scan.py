"""A scan from start to end: text and model found, every cut scored once, results kept and shown.

The scan itself is `scan`; a result is kept under `mlruns/scans` and answered from there the second
time, and logged to the MLflow experiment `scan` as curves over depth.
"""

import hashlib
import json
from dataclasses import asdict

from pressft.corpus import load
from pressft.corpus.format import Corpus
from pressft.evaluation import layer_scan
from pressft.model import base as models
from pressft.model.tokens import separators, tokenize, up_to
from pressft.progress import Reporter
from pressft.spec import ScanSpec
from pressft.study.locations import Locations
from pressft.study.results import write_atomically
from pressft.study.scans import CRITERIA, Scan
from pressft.tracking.client import Tracker
from pressft.tracking.outbox import Record
from pressft.tracking.sender import PATIENCE_S, Sender

SCAN_VERSION = 2  # raise it when the same settings would give other numbers


def run(spec: ScanSpec, report: Reporter, locations: Locations) -> Scan:
    """The scan that `spec` asks for, from an earlier one where there is one.

    Raises:
        UsageError, DataError, MissingError: as `corpora.find` and `models.load`.
    """
    found = load.find(spec.corpus, report.setup)
    base = models.load(models.resolve(spec.model), spec.quantization, report.setup)
    return on(base, found, spec, report, locations)


def on(
    base: models.Base, found: Corpus, spec: ScanSpec, report: Reporter, locations: Locations
) -> Scan:
    """`run` on a model and a corpus that are there already."""
    what = [SCAN_VERSION, base.computed, found.fingerprint, asdict(spec) | {"model": ""}]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    path = locations.root / "scans" / f"{key}.json"
    if path.is_file():
        return Scan.from_json(path.read_text())
    texts = [article.text for article in found.splits.validation]
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
        fingerprint=found.fingerprint,
        n_layers=base.n_layers,
        base=whole,
        cuts=tuple(cuts),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(result)) + "\n")
    _track(result, spec, key, locations, report)
    return result


def _track(result: Scan, spec: ScanSpec, key: str, locations: Locations, report: Reporter) -> None:
    """Log the curves over depth; the x axis is the index of the first layer of a cut."""
    record = Record(locations.outbox, f"scan-{key}")
    question = "What removing each part costs before any training."
    tags = {"study": "scan", "arm": "all", "corpus": result.fingerprint}
    title = f"{result.model} on {result.corpus}"
    record.begin({"name": "scan", "question": question}, title, asdict(spec), tags)
    names = {"layers": "perplexity"}
    for kind in ("layers", "attention", "mlp", "blocks"):
        for index, cut in enumerate(result.kind(kind)):
            metrics = {f"scan/{names.get(kind, kind)}": cut.score.perplexity}
            if kind == "layers":
                metrics |= {f"scan/{name}": getattr(cut, name) for name in CRITERIA}
            record.points(index, metrics)
    record.texts({"scan.csv": result.as_csv()})
    record.end("FINISHED")
    with Sender(
        Tracker(locations.root, locations.tracking_uri), locations.outbox, report.say
    ) as sender:
        sender.flush({record.name}, PATIENCE_S)
