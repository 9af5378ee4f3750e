"""The settings of a trial or a scan, checked and hashed. No torch, Optuna or MLflow here.

A cell is a spec on one corpus with one model: two trials of the same cell would give the same
numbers, so its hash is the name under which a result is stored (law 8).
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pressft._files import digest
from pressft.errors import UsageError

Optimizer = Literal["adamw", "adamw-8bit", "paged-adamw-8bit"]
Quantization = Literal["nf4", "none"]
Repair = Literal["none", "scale"]

CORPORA = "folder written by scrapy crawl press, text file, or: invented, wikipedia"
NAMES = ("first", "middle", "last")
HALVES = ("attention", "mlp")
WHOLE = "none"  # the arm from which nothing is removed
FORMS = (
    "none, first, middle, last, an index (5), a range (12-15), a half (attention:14, mlp:14) "
    "or several, separated by commas"
)
Value = str | int | float  # of a setting in a study
Part = int | str  # a layer by its 0-based index, or a half of one: "attention:14"
CELL_VERSION = 6  # raise it when the same spec would give other numbers


def setting(default: Any, help_: str) -> Any:  # noqa: ANN401  (dataclasses types fields so)
    """A field of a spec, with the help text that `pressft run --help` shows."""
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """Settings of one trial. Lengths are in tokens, `batch` is in sequences per step.

    Raises:
        UsageError: a value is out of its range; the message names the range.
    """

    model: str = setting("auto", "preset, hub id or folder; auto: Qwen3-0.6B or, offline, SmolLM2")
    corpus: str = setting("corpora/bmw", CORPORA)
    general: str = setting(
        "", "a general-domain text, to measure forgetting and for mix; as corpus"
    )
    mix: float = setting(0.0, "share of training sequences taken from the general text, 0 to 0.9")
    remove: str = setting(
        "none", "none, first, middle, last, 5, 3,5, 12-15, attention:14 or mlp:14"
    )
    repair: Repair = setting(
        "none", "none, or scale: rescale the states after a cut to their former norm"
    )
    rank: int = setting(8, "rank of the LoRA matrices")
    learning_rate: float = setting(
        2e-4, "peak, reached after a tenth of the steps; then cosine to zero"
    )
    tokens: int = setting(1_000_000, "training tokens, rounded up to whole steps")
    batch: int = setting(8, "sequences per step")
    block: int = setting(512, "tokens per training sequence")
    window: int = setting(1024, "context in scoring, in tokens; the stride is half of it")
    validation_tokens: int = setting(
        32_768, "scored tokens of validation and of general text, at most"
    )
    optimizer: Optimizer = setting("adamw", "adamw; on CUDA also adamw-8bit, paged-adamw-8bit")
    quantization: Quantization = setting("nf4", "quantization of the frozen base: nf4 or none")
    seed: int = setting(0, "seed of adapter initialisation and data order, drawn separately")

    def __post_init__(self) -> None:
        object.__setattr__(self, "remove", str(self.remove))
        for name, low in {"rank": 1, "tokens": 1, "batch": 1, "block": 2, "window": 2}.items():
            _check(self, name, getattr(self, name) >= low, f"at least {low}")
        _check(self, "validation_tokens", self.validation_tokens >= 1, "at least 1")
        _check(self, "seed", 0 <= self.seed < 2**32, "0 to 4294967295")
        rate = self.learning_rate
        _check(self, "learning_rate", math.isfinite(rate) and rate > 0, "a number above 0")
        _check(self, "repair", self.repair in get_args(Repair), _or(Repair))
        _check(self, "optimizer", self.optimizer in get_args(Optimizer), _or(Optimizer))
        _check(self, "quantization", self.quantization in get_args(Quantization), _or(Quantization))
        _check(self, "mix", 0 <= self.mix <= 0.9, "0 to 0.9")
        if self.mix and not self.general:
            raise UsageError(f"mix {self.mix}: name the text to mix in, as in general='wikipedia'")
        parse_removal(self.remove)

    @property
    def steps(self) -> int:
        """The number of optimizer steps: the token budget in whole batches, rounded up."""
        return -(-self.tokens // (self.batch * self.block))

    @property
    def trained_tokens(self) -> int:
        """The number of training tokens in whole steps."""
        return self.steps * self.batch * self.block

    @property
    def validated_at(self) -> tuple[int, ...]:
        """The steps after which validation is scored: a ninth of them, then every two ninths."""
        ninths = (max(1, round(self.steps * n / 9)) for n in range(1, 10, 2))
        return tuple(dict.fromkeys(ninths))

    def repairs(self, parts: Iterable[Part]) -> bool:
        """Whether a cut of these parts is repaired, which needs at least one whole layer in it."""
        return self.repair != "none" and any(isinstance(part, int) for part in parts)

    def cell(self, model: str, parts: tuple[Part, ...], fingerprint: str) -> str:
        """16 hex digits that identify this trial's result.

        Args:
            model: identity of the weights (revision or hash, not their name) and of the type in
                which they are computed.
            parts: what is removed, resolved, so that `last` and `29` of 30 give the same cell.
            fingerprint: of the contents of corpus and general text, not of their folders.

        Settings at their default are left out, so that a new setting renames no old cell; a default
        may therefore never change without a new CELL_VERSION (tested by a golden hash).
        """
        unnamed = {"model", "corpus", "general", "remove"}
        unnamed |= set() if self.repairs(parts) else {"repair"}
        settings = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name not in unnamed and getattr(self, item.name) != item.default
        }
        identity = [CELL_VERSION, model, list(parts), fingerprint, settings]
        return digest(identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSpec:
    """Settings of a scan: `tokens` and `window` in tokens, `block` in layers.

    Raises:
        UsageError: a value is out of its range; the message names the range.
    """

    model: str = setting("auto", "preset, hub id or folder; auto: Qwen3-0.6B or, offline, SmolLM2")
    corpus: str = setting("corpora/bmw", CORPORA)
    tokens: int = setting(2048, "tokens of validation text, at most, in whole articles")
    window: int = setting(512, "context in tokens; the stride is half of it")
    halves: bool = setting(True, "also remove each attention half and each MLP half")
    block: int = setting(0, "also remove each run of this many layers; 0: none")
    quantization: Quantization = setting("nf4", "quantization of the base: nf4 or none")

    def __post_init__(self) -> None:
        for name, low in {"tokens": 1, "window": 2, "block": 0}.items():
            _check(self, name, getattr(self, name) >= low, f"at least {low}")
        _check(self, "quantization", self.quantization in get_args(Quantization), _or(Quantization))


@dataclass(frozen=True, slots=True)
class Removal:
    """What a cut removed: 0-based indices of whole layers, the number of layers before, parameters
    saved, half layers; if it was repaired, the factor after each run of removed layers."""

    layers: tuple[int, ...]
    of: int
    parameters: int
    halves: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All removed parts, in the form of `resolve`."""
        return (*self.layers, *self.halves)

    @property
    def kept(self) -> tuple[int, ...]:
        """The original indices of the layers that remain, whole or in part."""
        return tuple(i for i in range(self.of) if i not in self.layers)


def _or(choices: Any) -> str:  # noqa: ANN401  (a Literal form has no better type)
    return " or ".join(get_args(choices))


def _check(spec: TrialSpec | ScanSpec, name: str, holds: bool, range_: str) -> None:
    if not holds:
        raise UsageError(f"{name} {getattr(spec, name)!r}: choose {range_}")


def parse_removal(remove: str) -> list[tuple[str, str, str]]:
    """The items of a `remove` value: half or "", first index, last index; numbers or names.

    Raises:
        UsageError: the value has none of the allowed forms.
    """
    if remove == "none":
        return []
    name = "|".join(NAMES)
    found = [
        re.fullmatch(rf"(?:({'|'.join(HALVES)}):)?({name}|\d+)(?:-(\d+))?", item)
        for item in remove.split(",")
    ]
    items = [(match[1] or "", match[2], match[3] or match[2]) for match in found if match]
    if len(items) < len(found) or any(a in NAMES and a != b for _, a, b in items):
        raise UsageError(f"remove {remove!r}: choose {FORMS}")
    if any(a.isdigit() and int(a) > int(b) for _, a, b in items):
        raise UsageError(f"remove {remove!r}: an empty range; write the lower index first")
    return items


def resolve(remove: str, n_layers: int) -> tuple[Part, ...]:
    """The parts that `remove` names in a model of `n_layers`: whole layers ascending, then halves.

    A half of a layer that is also removed as a whole is left out; both halves make a whole layer.

    Raises:
        UsageError: an index is out of range, or no layer would be left.
    """
    index = {"first": 0, "middle": n_layers // 2, "last": n_layers - 1}
    named: dict[str, set[int]] = {"": set(), **{half: set() for half in HALVES}}
    for half, low, high in parse_removal(remove):
        bounds = [index[end] if end in index else int(end) for end in (low, high)]
        if bounds[1] >= n_layers:
            raise UsageError(f"layer {bounds[1]} of a {n_layers}-layer model: 0 to {n_layers - 1}")
        named[half] |= set(range(bounds[0], bounds[1] + 1))
    whole = named[""] | (named["attention"] & named["mlp"])
    if len(whole) >= n_layers:
        raise UsageError(f"remove {remove!r} leaves none of the {n_layers} layers: keep one")
    halves = [f"{half}:{i}" for half in HALVES for i in sorted(named[half] - whole)]
    return (*sorted(whole), *halves)
