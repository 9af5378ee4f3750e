"""A finished scan as data: what removing each part costs an untrained model. No torch here."""

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
    """What removing `remove` costs an untrained model, and what cheap criteria say of it.

    `influence` is in 0 to 2, `angular_distance` in 0 to 1, `taylor` in nats a token.
    """

    remove: str
    score: Score
    influence: float
    angular_distance: float
    taylor: float


@dataclass(frozen=True, slots=True)
class Scan:
    """A finished scan: the whole model and every cut, on the same text, untrained.

    `weights` and `fingerprint` say which model and corpus those names meant.
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
        """Cuts of one kind in the order of depth: layers, attention, mlp or blocks."""
        return [cut for cut in self.cuts if _kind(cut.remove) == kind]

    def best(self, k: int) -> tuple[str, ...]:
        """The `k` layers whose removal costs least, the cheapest first."""
        ranked = sorted(self.kind("layers"), key=lambda cut: cut.score.loss)
        return tuple(cut.remove for cut in ranked[:k])

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

    @classmethod
    def from_json(cls, text: str) -> "Scan":
        """Back from `json.dumps(asdict(scan))`."""
        data = json.loads(text)
        cuts = [Cut(**cut | {"score": Score(**cut["score"])}) for cut in data.pop("cuts")]
        return cls(**data | {"base": Score(**data["base"]), "cuts": tuple(cuts)})


def find(root: Path, weights: str, fingerprint: str) -> Scan | None:
    """The scan under `root` of this very model and corpus that saw the most text, if any."""
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
