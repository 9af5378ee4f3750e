"""Charts are well-formed SVG that shows every drawable point, where it belongs."""

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pressft.report import charts
from pressft.report.charts import Axis, Level, Point, Series, plot, short

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


def dots(*points: tuple[float, float]) -> Series:
    return Series("a1", tuple(Point(x, y, f"{x}, {y}") for x, y in points), mark="square")


def marks(svg: str) -> list[tuple[str, float, float]]:
    """Tip and first coordinates of every mark."""
    root = ElementTree.fromstring(svg)
    found = []
    for path in root.iter("path"):
        if tip := path.get("data-tip"):
            start = re.match(r"M([\d.-]+) ([\d.-]+)", path.get("d", ""))
            assert start
            found.append((tip, float(start[1]), float(start[2])))
    return found


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=20), st.booleans(), st.booleans())
def test_a_plot_is_well_formed_and_stays_inside(
    points: list[tuple[float, float]], across: bool, up: bool
) -> None:
    svg = plot([dots(*points)], Axis("x", across), Axis("y", up), "title")
    drawn = [
        (x, y)
        for x, y in points
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not across) and (y > 0 or not up)
    ]
    if not drawn:
        assert svg == ""
        return
    found = marks(svg)
    assert len(found) == len(drawn)
    for _, x, y in found:
        assert 0 <= x <= charts.WIDTH
        assert 0 <= y <= charts.HEIGHT


def test_larger_values_stand_higher_and_further_right() -> None:
    svg = plot([dots((1, 1), (10, 10), (100, 100))], Axis("x", log=True), Axis("y", log=True), "t")
    places = [(x, y) for _, x, y in marks(svg)]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(places)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)  # a decade is a decade
    assert steps[0][0] > 0 > steps[0][1]


def test_what_lies_above_the_top_is_an_arrow_with_its_number() -> None:
    points = [(1.0, 3.0), (2.0, 5.0), (3.0, 172_199.0)]
    svg = plot([dots(*points)], Axis("x"), Axis("y", top=10), "t")
    assert ">170k</text>" in svg
    heights = {tip: y for tip, _, y in marks(svg)}
    assert heights["3.0, 172199.0"] < heights["2.0, 5.0"] < heights["1.0, 3.0"]
    assert heights["1.0, 3.0"] - heights["2.0, 5.0"] > 100  # the others have the room


def test_text_from_outside_stays_text() -> None:
    evil = '"><script>alert(1)</script>'
    series = Series("a1", (Point(1, 1, evil),), mark="circle")
    svg = plot([series], Axis(evil), Axis(evil), evil, [Level(1, evil)])
    assert "<script" not in svg
    ElementTree.fromstring(svg)


@pytest.mark.parametrize("shape", charts.MARKS)
def test_every_mark_is_drawn_around_its_place(shape: str) -> None:
    assert re.fullmatch(r"M[-\d.]+ [-\d.]+[-\da-zA-Z. ]+", charts.mark_path(shape, 7, 7))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (40, "40"), (1.5, "1.5"), (12000, "12k"), (3_540_000, "3.54M"), (5e-4, "5e-4")],
)
def test_axis_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text
