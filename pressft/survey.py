"""A scan from start to end: text and model found, every cut scored once, results kept and shown.

The scan itself is `scan`; a result is kept under `mlruns/scans` and answered from there the second
time, and logged to the MLflow experiment `scan` as curves over depth.
"""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pressft import blocks, corpora, models, scan
from pressft.blocks import Document
from pressft.console import Reporter
from pressft.results import write_atomically
from pressft.scores import Cut, Score, spearman
from pressft.spec import ScanSpec
from pressft.status import Stores
from pressft.tracking import Tracker

CRITERIA = ("influence", "angular_distance", "taylor")
SCAN_VERSION = 1  # raise it when the same settings would give other numbers


@dataclass(frozen=True, slots=True)
class Scan:
    """A finished scan: the whole model and every cut, on the same text, untrained."""

    model: str
    corpus: str
    n_layers: int
    base: Score
    cuts: tuple[Cut, ...]

    def kind(self, kind: str) -> list[Cut]:
        """Cuts of one kind in the order of depth: layers, attention, mlp or blocks."""
        return [cut for cut in self.cuts if _kind(cut.remove) == kind]

    def correlations(self) -> dict[str, float]:
        """Spearman's rank correlation of each cheap criterion with the perplexity, over layers."""
        layers = self.kind("layers")
        losses = [cut.score.loss for cut in layers]
        return {name: spearman([getattr(cut, name) for cut in layers], losses) for name in CRITERIA}

    def as_json(self) -> dict[str, Any]:
        """For `--json`: base, the cuts by kind, the rank correlations."""
        return {
            "model": self.model,
            "corpus": self.corpus,
            "base": {
                "perplexity": self.base.perplexity,
                "bits_per_byte": self.base.bits_per_byte,
                "tokens": self.base.tokens,
                "layers": self.n_layers,
            },
            **{
                kind: [_row(cut) for cut in self.kind(kind)]
                for kind in ("layers", "attention", "mlp", "blocks")
                if kind == "layers" or self.kind(kind)
            },
            "rank_correlation": self.correlations(),
        }

    def as_csv(self) -> str:
        """One line a cut, unrounded."""
        out = io.StringIO()
        writer = csv.DictWriter(out, list(_row(self.cuts[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(cut) for cut in self.cuts)
        return out.getvalue()


def run(spec: ScanSpec, report: Reporter, stores: Stores) -> Scan:
    """The scan that `spec` asks for, from an earlier one where there is one.

    Raises:
        UsageError, DataError, MissingError: as `corpora.find` and `models.load`.
    """
    found = corpora.find(spec.corpus)
    name = models.resolve(spec.model)
    base = models.load(name, spec.quantization, report.setup)
    what = [SCAN_VERSION, base.identity, found.fingerprint, asdict(spec) | {"model": ""}]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    path = stores.root / "scans" / f"{key}.json"
    if path.is_file():
        return _load(path.read_text())
    texts = [article.text for article in found.splits.validation]
    documents = up_to(blocks.tokenize(texts, base.tokenizer), spec.tokens)
    report.plan(f"scan of {name}", sum(len(document.ids) for document in documents))
    whole, cuts = scan.scan(
        base.model,
        documents,
        blocks.separators(base.tokenizer).before,
        spec.window,
        scan.parts_of(base.n_layers, halves=spec.halves, block=spec.block),
        lambda n: report.advance("every cut in one pass", n),
    )
    result = Scan(name, spec.corpus, base.n_layers, whole, tuple(cuts))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(result)) + "\n")
    _track(result, spec, found.fingerprint, stores)
    return result


def up_to(documents: Sequence[Document], tokens: int) -> list[Document]:
    """The first documents that together hold at most `tokens`; one at least, cut if it must be."""
    chosen: list[Document] = []
    for document in documents:
        tokens -= len(document.ids)
        if chosen and tokens < 0:
            break
        chosen.append(document)
    return chosen


def _track(result: Scan, spec: ScanSpec, fingerprint: str, stores: Stores) -> None:
    """Log the curves over depth; the x axis is the index of the first layer of a cut."""
    tracker = Tracker(stores.root, stores.tracking_uri)
    experiment = tracker.experiment("scan", "What removing each part costs before any training.")
    tags = {"study": "scan", "arm": "all", "corpus": fingerprint}
    title = f"{result.model} on {result.corpus}"
    run_id = tracker.start(experiment, title, asdict(spec), tags, [])
    names = {"layers": "perplexity"}
    for kind in ("layers", "attention", "mlp", "blocks"):
        for index, cut in enumerate(result.kind(kind)):
            metrics = {f"scan/{names.get(kind, kind)}": cut.score.perplexity}
            if kind == "layers":
                metrics |= {f"scan/{name}": getattr(cut, name) for name in CRITERIA}
            tracker.log(run_id, index, metrics)
    tracker.texts(run_id, {"scan.csv": result.as_csv()})
    tracker.finish(run_id, "FINISHED")


def _load(text: str) -> Scan:
    data = json.loads(text)
    cuts = [Cut(**cut | {"score": Score(**cut["score"])}) for cut in data.pop("cuts")]
    return Scan(**data | {"base": Score(**data["base"]), "cuts": tuple(cuts)})


def _kind(remove: str) -> str:
    if ":" in remove:
        return remove.split(":")[0]
    return "blocks" if "-" in remove else "layers"


def _row(cut: Cut) -> dict[str, Any]:
    numbers = {name: getattr(cut, name) for name in CRITERIA}
    return {"remove": cut.remove, "perplexity": cut.score.perplexity, **numbers}
