"""A study as data: a question, and the cells it asks for. Running them is left to others."""

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

# what is measured, and on what: trials that differ here cannot be compared; for seeds see Study
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
    """Values to choose from, in order: `Choices(4, 8, 16)`.

    Raises:
        UsageError: no value, or one twice.
    """

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        if not values or len(set(values)) < len(values):
            raise UsageError(f"Choices{values!r}: give at least one value, each once")
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included, drawn uniformly, or log-uniformly with `log`.

    Raises:
        UsageError: not low < high, or `log` from zero or below.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UsageError(f"{self}: low must be below high, and above 0 where log is set")


@dataclass(frozen=True, slots=True)
class Study:
    """A question: a base spec, and which of its fields take which values.

    Arms are the values of `remove`. `grid` runs the product of all choices. `per-arm` gives every
    arm `trials` draws of its own, so that no arm is favoured (law 7), and then repeats the best of
    each arm, by validation, with the remaining `seeds`.

    At the end, the best model of each arm continues the `prompts`, a text file, and is scored on
    the right answers to the `questions`, a JSONL file; both lie beside the experiment.

    With `pruning="median"`, a trial of the first seed is pruned when its validation loss lies above
    the median of its arm after the same number of tokens; with `"halving"`, when it is not in the
    best third of its arm after a ninth of the tokens, or of the remaining ones after five ninths.
    `"halving-arms"` prunes arms in the same way, for studies that ask only which cut is best.

    An arm `best-of-scan(3)` stands for the three layers whose removal costs an untrained model
    least, the cheapest first.

    Raises:
        UsageError: a field, design or combination that cannot be run; the message names it.
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
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UsageError(f"study name {self.name!r}: letters, digits, '.', '_' and '-' only")
        fields = {f.name for f in dataclasses.fields(TrialSpec)} - FIXED
        for name, values in self.space.items():
            if name not in fields:
                raise UsageError(f"study field {name!r}: choose from {', '.join(sorted(fields))}")
            if isinstance(values, Range) and (self.design == "grid" or name == "remove"):
                raise UsageError(f"{name} {values}: grids and `remove` take Choices only")
        if self.design not in {"grid", "per-arm"}:
            raise UsageError(f"design {self.design!r}: choose grid or per-arm")
        if self.pruning not in get_args(Pruning):
            raise UsageError(f"pruning {self.pruning!r}: choose {', '.join(get_args(Pruning))}")
        moved = [name for name in ("tokens", "batch", "block") if name in self.space]
        if self.pruning.startswith("halving") and moved:
            raise UsageError(
                f"pruning {self.pruning} pauses all trials at the same step: give {moved[0]} one "
                "value, in the base spec"
            )
        if self.trials < 1 or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError("a study needs at least one trial per arm and distinct seeds")
        self.arms()

    def arms(self) -> tuple[str, ...]:
        """The values of `remove`, as named; the whole model comes first, as the reference."""
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
        """How many of the best layers of a scan the study asks for; 0 if it needs no scan."""
        return sum("#" in arm for arm in self.arms())

    def with_scan(self, layers: Sequence[str]) -> "Study":
        """The study with `best-of-scan(k)` replaced by the first k of `layers`."""
        ranked = [arm for arm in self.arms() if "#" in arm]
        named = dict(zip(ranked, layers, strict=False))
        arms = dict.fromkeys(named.get(arm, arm) for arm in self.arms())
        return dataclasses.replace(self, space={**self.space, "remove": Choices(*arms)})

    def within_arm(self) -> dict[str, Choices | Range]:
        """The search space without `remove`."""
        return {name: values for name, values in self.space.items() if name != "remove"}

    def spec(self, **params: Value) -> TrialSpec:
        """The base spec with `params` replaced."""
        return dataclasses.replace(self.base, **params)  # type: ignore[arg-type]

    def grid(self) -> list[dict[str, Value]]:
        """The params of every cell; arms vary fastest, so that all of them advance together."""
        within = self.within_arm()
        names = [*within, "seed", "remove"]
        axes = [v.values for v in within.values() if isinstance(v, Choices)]
        return [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*axes, self.seeds, self.arms())
        ]

    @property
    def n_first(self) -> int:
        """The number of trials per arm with the first seed."""
        if self.design == "per-arm":
            return self.trials
        within = (v.values for v in self.within_arm().values() if isinstance(v, Choices))
        return math.prod(map(len, within))

    @property
    def n_trials(self) -> int:
        """The number of trials in all."""
        if self.design == "grid":
            return len(self.grid())
        return len(self.arms()) * (self.trials + len(self.seeds) - 1)

    def definition(self) -> dict[str, Any]:
        """What must stay the same for a study to be resumed, as JSON data."""
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
    """Lines `field: old -> new` for every difference between two definitions."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines


def is_extension(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the new definition contains the old one and adds only choices, seeds, or trials per
    arm."""

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
    """The study that an experiment file defines as `STUDY`; the file's docstring is its question.

    Raises:
        UsageError: no such file, it does not run, or it defines no STUDY.
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
        raise UsageError(f"{path}: defines no STUDY = Study(...); see experiments/smoke.py")
    return dataclasses.replace(
        study,
        question=(module.__doc__ or "").strip(),
        prompts=study.prompts and str(path.parent / study.prompts),
        questions=study.questions and str(path.parent / study.questions),
    )
