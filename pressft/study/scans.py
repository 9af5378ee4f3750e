"""The result of a scan: what removing each part costs an untrained model. No torch here."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pressft.score import Score, spearman

CRITERIA = ("influence", "angular_distance", "taylor")


@dataclass(frozen=True, slots=True)
class Cut:
    """The score of an untrained model without `remove`, and the cheap criteria of that cut.

    `influence` is in 0 to 2, `angular_distance` in 0 to 1, `taylor` in nats per token.
    """

    remove: str
    score: Score
    influence: float
    angular_distance: float
    taylor: float


@dataclass(frozen=True, slots=True)
class Scan:
    """A finished scan: scores of the whole model and of every cut, on the same text, untrained.

    `weights` and `fingerprint` identify what the names `model` and `corpus` stood for.
    """

    model: str
    corpus: str
    weights: str
    fingerprint: str
    n_layers: int
    base: Score
    cuts: tuple[Cut, ...]
    settings: Mapping[str, str | int | bool] = field(default_factory=dict)  # of its ScanSpec
    made: int = 0  # milliseconds since 1970

    def kind(self, kind: str) -> list[Cut]:
        """The cuts of one kind (layers, attention, mlp or blocks), in order of depth."""
        return [cut for cut in self.cuts if _kind(cut.remove) == kind]

    def best(self, k: int) -> tuple[str, ...]:
        """The `k` layers whose removal costs least, the cheapest first."""
        ranked = sorted(self.kind("layers"), key=lambda cut: cut.score.loss)
        return tuple(cut.remove for cut in ranked[:k])

    def correlations(self) -> dict[str, float]:
        """Spearman's rank correlation of each criterion with the perplexity, over single layers."""
        layers = self.kind("layers")
        losses = [cut.score.loss for cut in layers]
        return {name: spearman([getattr(cut, name) for cut in layers], losses) for name in CRITERIA}

    def as_json(self) -> dict[str, Any]:
        """Data for `--json`: the base, the cuts by kind, the rank correlations."""
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
        """CSV with one line per cut, unrounded."""
        out = io.StringIO()
        writer = csv.DictWriter(out, list(_row(self.cuts[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(cut) for cut in self.cuts)
        return out.getvalue()

    @classmethod
    def from_json(cls, text: str) -> "Scan":
        """The inverse of `json.dumps(asdict(scan))`."""
        data = json.loads(text)
        cuts = [Cut(**cut | {"score": Score(**cut["score"])}) for cut in data.pop("cuts")]
        return cls(**data | {"base": Score(**data["base"]), "cuts": tuple(cuts)})


def find(root: Path, weights: str, fingerprint: str) -> Scan | None:
    """The stored scan of this model and corpus that covers the most text, if there is one."""
    stored = [Scan.from_json(path.read_text()) for path in sorted(root.glob("scans/*.json"))]
    ours = [s for s in stored if (s.weights, s.fingerprint) == (weights, fingerprint)]
    return max(ours, key=lambda scan: (scan.base.tokens, len(scan.cuts)), default=None)


def _kind(remove: str) -> str:
    if ":" in remove:
        return remove.split(":")[0]
    return "blocks" if "-" in remove else "layers"


def _row(cut: Cut) -> dict[str, Any]:
    numbers = {name: getattr(cut, name) for name in CRITERIA}
    return {"remove": cut.remove, "perplexity": cut.score.perplexity, **numbers}
