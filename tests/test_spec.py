"""Specs refuse what cannot be run, resolve removals, and name their cells."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pressft.errors import UsageError
from pressft.spec import TrialSpec, resolve

SPEC = TrialSpec(model="tiny-llama", corpus="invented")


@pytest.mark.parametrize(
    ("remove", "parts"),
    [
        ("none", ()),
        ("first", (0,)),
        ("middle", (14,)),
        ("last", (27,)),
        ("5", (5,)),
        ("3,5", (3, 5)),
        ("5,3,3", (3, 5)),
        ("first,last", (0, 27)),
        ("12-15", (12, 13, 14, 15)),
        ("0,12-14,27", (0, 12, 13, 14, 27)),
        ("attention:14", ("attention:14",)),
        ("mlp:last", ("mlp:27",)),
        ("mlp:2,attention:1-2", (2, "attention:1")),
        ("attention:3-5,4", (4, "attention:3", "attention:5")),
        ("mlp:9,attention:10", ("attention:10", "mlp:9")),
    ],
)
def test_removals_resolve_to_indices(remove: str, parts: tuple[object, ...]) -> None:
    assert resolve(remove, 28) == parts


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("28", "layer 28 of a 28-layer model: 0 to 27"),
        ("mlp:28", "layer 28 of a 28-layer model: 0 to 27"),
        ("20-40", "layer 40 of a 28-layer model"),
        ("0-27", "leaves none of the 28 layers"),
        ("mlp:0-27,attention:0-27", "leaves none of the 28 layers"),
        ("9-3", "an empty range"),
        ("-1", "choose none, first, middle, last, an index"),
        ("first-3", "choose none, first"),
        ("midle", "choose none, first, middle, last"),
        ("", "choose none"),
        ("none,3", "choose none"),
        ("attn:14", "choose none.*attention:14, mlp:14"),
    ],
)
def test_a_removal_that_cannot_be_is_refused_by_name(remove: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(remove, 28)


@given(
    st.sets(st.integers(0, 9), max_size=9), st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9))
)
def test_a_resolved_removal_resolves_to_itself(
    layers: set[int], attention: set[int], mlp: set[int]
) -> None:
    items = [*map(str, layers), *(f"attention:{i}" for i in attention), *(f"mlp:{i}" for i in mlp)]
    if not items or len(layers | (attention & mlp)) == 10:
        return
    parts = resolve(",".join(items), 10)
    assert resolve(",".join(map(str, parts)), 10) == parts
    whole = {part for part in parts if isinstance(part, int)}
    assert whole == layers | (attention & mlp)
    halves = {part for part in parts if isinstance(part, str)}
    assert halves == {f"attention:{i}" for i in attention - whole} | {
        f"mlp:{i}" for i in mlp - whole
    }


@pytest.mark.parametrize(
    ("field", "value", "range_"),
    [
        ("rank", 0, "at least 1"),
        ("learning_rate", 0.0, "a number above 0"),
        ("learning_rate", float("nan"), "a number above 0"),
        ("tokens", 0, "at least 1"),
        ("block", 1, "at least 2"),
        ("window", 1, "at least 2"),
        ("batch", 0, "at least 1"),
        ("validation_tokens", 0, "at least 1"),
        ("seed", -1, "0 to 4294967295"),
        ("optimizer", "sgd", "adamw or adamw-8bit"),
        ("quantization", "int8", "nf4 or none"),
        ("repair", "weld", "none or scale"),
        ("mix", 0.95, "0 to 0.9"),
        ("mix", 0.5, "general='wikipedia'"),
        ("remove", "all", "choose none"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field: str, value: object, range_: str) -> None:
    with pytest.raises(UsageError, match=f"{field} .*{range_}"):
        dataclasses.replace(SPEC, **{field: value})


@given(st.integers(1, 10**7), st.integers(1, 64), st.integers(2, 4096))
def test_the_token_budget_is_rounded_up_to_whole_steps(tokens: int, batch: int, block: int) -> None:
    spec = TrialSpec(tokens=tokens, batch=batch, block=block)
    assert tokens <= spec.trained_tokens < tokens + batch * block
    assert spec.trained_tokens == spec.steps * batch * block


def test_cells_keep_their_names_between_versions() -> None:
    # golden: if this moves, results kept by users are lost; raise CELL_VERSION knowingly
    spec = TrialSpec(rank=16, learning_rate=5e-4, seed=3)
    assert spec.cell("weights", (14,), "corpus") == "12990d398028ee33"


def test_a_cell_is_named_by_what_moves_its_numbers() -> None:
    name = SPEC.cell("weights", (1,), "corpus")
    same = dataclasses.replace(SPEC, model="other-name", corpus="elsewhere", remove="1")
    assert same.cell("weights", (1,), "corpus") == name
    others = [
        SPEC.cell("weights", (2,), "corpus"),
        SPEC.cell("other", (1,), "corpus"),
        SPEC.cell("weights", (1,), "other"),
    ]
    moved = {"rank": 4, "learning_rate": 1e-3, "tokens": 5, "batch": 2, "block": 64, "window": 64}
    moved |= {"validation_tokens": 9, "seed": 1}
    moved |= {"mix": 0.5}
    words = {"optimizer": "adamw-8bit", "quantization": "none", "repair": "scale"}
    base = dataclasses.replace(SPEC, general="wikipedia")
    assert base.cell("weights", (1,), "corpus") == name  # the fingerprint stands for it
    for field, value in {**moved, **words}.items():
        others.append(dataclasses.replace(base, **{field: value}).cell("weights", (1,), "corpus"))
    assert len({name, *others}) == len(others) + 1
    scaled = dataclasses.replace(SPEC, repair="scale")
    assert scaled.cell("weights", (), "corpus") == SPEC.cell("weights", (), "corpus")
