"""What a study is: a question as data. Which cells it asks for; running them is left to others."""

import dataclasses
import importlib.util
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pressft.errors import UsageError
from pressft.spec import TrialSpec, Value

# what is measured, and on what: trials that differ here do not compare; seeds have their own place
FIXED = {
    "model",
    "corpus",
    "general",
    "repair",
    "quantization",
    "window",
    "validation_tokens",
    "seed",
}
Design = Literal["grid", "per-arm"]
Pruning = Literal["none", "median", "halving", "halving-arms"]
BEST_OF_SCAN = re.compile(r"best-of-scan\(([1-9]\d*)\)")


@dataclass(frozen=True, slots=True, init=False)
class Choices:
    """Values to choose from; `Choices(4, 8, 16)`."""

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        """Keep the values in the order given.

        Raises:
            UsageError: none, or one twice.
        """
        if not values or len(set(values)) < len(values):
            raise UsageError(f"Choices{values!r}: give at least one value, each once")
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; drawn evenly by size, or by magnitude (log)."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty range.

        Raises:
            UsageError: not low < high, or a logarithm of zero.
        """
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UsageError(f"{self}: low must be below high, and above 0 where log is set")


@dataclass(frozen=True, slots=True)
class Study:
    """A question: a base spec, and which of its fields take which values.

    Arms are the values of `remove`. `grid` runs the product of all choices. `per-arm` gives every
    arm `trials` draws of its own, so that no arm is favoured (law 7), and then repeats the best of
    each arm, by validation, with the remaining `seeds`.

    In the end the best trial of each arm reads: it continues the `prompts`, a text file, and is
    scored on the right answers of `questions`, a JSONL file; both lie beside the experiment.

    With `pruning`, a trial of the first seed ends early when its validation loss lies above the
    median of its arm after the same number of tokens; or, in successive halving, when it is not in
    the best third of its arm after a ninth of the tokens, or of those after five ninths.
    `halving-arms` ends arms so, too: where only the best cut is asked for, not the cost of each.

    An arm `best-of-scan(3)` stands for the three layers whose removal costs an untrained model
    least, the cheapest first.

    Raises:
        UsageError: a field, design or combination that cannot be run.
    """

    name: str
    base: TrialSpec
    space: Mapping[str, Choices | Range]
    design: Design = "grid"
    trials: int = 1
    seeds: tuple[int, ...] = (0,)
    pruning: Pruning = "none"
    prompts: str = field(default="", compare=False)
    questions: str = field(default="", compare=False)
    question: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be run, by name."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UsageError(f"study name {self.name!r}: letters, digits, '.', '_' and '-' only")
        fields = {f.name for f in dataclasses.fields(TrialSpec)} - FIXED
        for name, values in self.space.items():
            if name not in fields:
                raise UsageError(f"study field {name!r}: choose from {', '.join(sorted(fields))}")
            if isinstance(values, Range) and (self.design == "grid" or name == "remove"):
                raise UsageError(f"{name} {values}: a grid and the arms need Choices")
        if self.design not in {"grid", "per-arm"}:
            raise UsageError(f"design {self.design!r}: choose grid or per-arm")
        if self.pruning not in get_args(Pruning):
            raise UsageError(f"pruning {self.pruning!r}: choose {', '.join(get_args(Pruning))}")
        moved = [name for name in ("tokens", "batch", "block") if name in self.space]
        if self.pruning.startswith("halving") and moved:
            raise UsageError(
                f"pruning {self.pruning}: trials rest at the same step; fix {moved[0]}"
            )
        if self.trials < 1 or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError("a study needs at least one trial an arm and distinct seeds")
        self.arms()

    def arms(self) -> tuple[str, ...]:
        """Values of `remove`, as named, the whole model first: the others are compared with it."""
        space = self.space.get("remove")
        values = space.values if isinstance(space, Choices) else (self.base.remove,)
        arms: list[str] = []
        for value in map(str, values):
            if found := BEST_OF_SCAN.fullmatch(value):
                arms += [f"{value}#{rank}" for rank in range(1, int(found[1]) + 1)]
            else:
                arms.append(self.spec(remove=value).remove)
        return tuple(sorted(arms, key=lambda arm: arm != "none"))

    @property
    def scanned(self) -> int:
        """How many of the best layers of a scan it asks for; 0 where it needs no scan."""
        return sum("#" in arm for arm in self.arms())

    def with_scan(self, layers: Sequence[str]) -> "Study":
        """The study with `best-of-scan(k)` replaced by the first k of these layers."""
        ranked = [arm for arm in self.arms() if "#" in arm]
        named = dict(zip(ranked, layers, strict=False))
        arms = dict.fromkeys(named.get(arm, arm) for arm in self.arms())
        return dataclasses.replace(self, space={**self.space, "remove": Choices(*arms)})

    def within_arm(self) -> dict[str, Choices | Range]:
        """The space without the arms."""
        return {name: values for name, values in self.space.items() if name != "remove"}

    def spec(self, **params: Value) -> TrialSpec:
        """The base with some fields replaced."""
        return dataclasses.replace(self.base, **params)  # type: ignore[arg-type]

    def grid(self) -> list[dict[str, Value]]:
        """Parameters of every cell, arms innermost, so that all arms advance together."""
        within = self.within_arm()
        names = [*within, "seed", "remove"]
        axes = [v.values for v in within.values() if isinstance(v, Choices)]
        return [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*axes, self.seeds, self.arms())
        ]

    @property
    def n_first(self) -> int:
        """Trials of an arm with the first seed."""
        if self.design == "per-arm":
            return self.trials
        within = (v.values for v in self.within_arm().values() if isinstance(v, Choices))
        return math.prod(map(len, within))

    @property
    def n_trials(self) -> int:
        """Trials in all."""
        if self.design == "grid":
            return len(self.grid())
        return len(self.arms()) * (self.trials + len(self.seeds) - 1)

    def definition(self) -> dict[str, Any]:
        """What must stay the same for a study to be resumed, JSON-ready."""
        return {
            "base": dataclasses.asdict(self.base),
            "space": {
                name: list(values.values)
                if isinstance(values, Choices)
                else dataclasses.asdict(values)
                for name, values in self.space.items()
            },
            "design": self.design,
            "trials": self.trials if self.design == "per-arm" else None,
            "seeds": list(self.seeds),
            "pruning": self.pruning,
        }


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `field: old -> new` for whatever differs between two definitions."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines


def is_extension(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the new definition asks for all that the old one did, and for more of it: choices,
    seeds, or trials an arm."""

    def includes(before: object, after: object) -> bool:
        both = isinstance(before, list) and isinstance(after, list)
        return set(before) <= set(after) if both else before == after  # type: ignore[call-overload]

    flexible = {"space", "seeds", "trials"}
    return (
        all(old.get(key) == new.get(key) for key in {*old, *new} - flexible)
        and old["space"].keys() == new["space"].keys()
        and all(includes(values, new["space"][name]) for name, values in old["space"].items())
        and new["seeds"][: len(old["seeds"])] == old["seeds"]
        and (old["trials"] or 0) <= (new["trials"] or 0)
    )


def load(path: Path) -> Study:
    """The value `STUDY` of an experiment file, with the file's docstring as its question.

    Raises:
        UsageError: no such file, it does not run, or it holds no STUDY.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such experiment file; try experiments/smoke.py")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file; an experiment ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:
        raise UsageError(f"{path} does not run: {type(error).__name__}: {error}") from error
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise UsageError(f"{path}: holds no STUDY = Study(...); see experiments/smoke.py")
    return dataclasses.replace(
        study,
        question=(module.__doc__ or "").strip(),
        prompts=study.prompts and str(path.parent / study.prompts),
        questions=study.questions and str(path.parent / study.questions),
    )
