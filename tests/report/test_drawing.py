"""Figures are well-formed drawings that show every point, where it belongs, and always the same."""

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import pairwise

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pressft.report import drawing
from pressft.report.drawing import HEIGHT, WIDTH, files, for_page, tick_label
from pressft.report.figures import Axis, Figure, Point, Series, Style

X, Y = Axis("x"), Axis("y")
NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


def dots(*places: tuple[float, float]) -> Figure:
    return figure([Point(x, y, f"{x}, {y}") for x, y in places])


def figure(points: Sequence[Point], x: Axis = X, y: Axis = Y, hollow: bool = False) -> Figure:
    series = Series(Style("a1", "arm"), points, line=True, hollow=hollow)
    return Figure("Made up", "caption", [series], x, y)


def marks(svg: str) -> list[tuple[str, float, float]]:
    """Hover text and place of every mark."""
    uses = ElementTree.fromstring(svg).iter("use")
    return [(u.findtext("title", ""), float(u.get("x", "")), float(u.get("y", ""))) for u in uses]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=20), st.booleans(), st.booleans())
def test_a_figure_is_well_formed_and_its_points_stay_inside(
    places: list[tuple[float, float]], across: bool, up: bool
) -> None:
    points = [Point(x, y, f"{x}, {y}") for x, y in places]
    drawn = figure(points, Axis("x", across), Axis("y", up))
    fit = [
        (x, y)
        for x, y in places
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not across) and (y > 0 or not up)
    ]
    assert sum(len(series.points) for series in drawn.shown) == len(fit)
    if not fit:
        return
    found = marks(for_page(drawn))
    assert len(found) == len(fit)
    for _, x, y in found:
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_larger_values_stand_higher_and_further_right() -> None:
    points = [Point(n, n) for n in (1, 10, 100)]
    svg = for_page(figure(points, Axis("x", log=True), Axis("y", log=True)))
    places = [(x, y) for _, x, y in marks(svg)]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(places)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)  # a decade is a decade
    assert steps[0][0] > 0 > steps[0][1]


@pytest.mark.parametrize("hollow", [False, True])
def test_what_lies_above_the_top_is_an_arrow_with_its_number(hollow: bool) -> None:
    points = [Point(x, y, str(y)) for x, y in ((1, 3), (2, 5), (3, 172_199))]
    svg = for_page(figure(points, y=Axis("y", top=10), hollow=hollow))
    assert ">170k</text>" in svg
    assert svg.count('href="#mark-arrow"') == 1
    heights = {text: y for text, _, y in marks(svg)}
    assert heights["172199"] < heights["5"] < heights["3"]
    assert heights["3"] - heights["5"] > 100  # the others have the space


def test_text_from_outside_stays_text() -> None:
    evil = '"><script>alert(1)</script> $x^2$'
    series = Series(Style("a1", evil), [Point(1, 1, evil)])
    made = Figure(evil, evil, [series], Axis(evil), Axis(evil), {evil: 1})
    svg = for_page(made)
    assert "<script" not in svg
    assert [node.text for node in ElementTree.fromstring(svg).iter("text")].count(evil) == 3
    assert b"<script" not in files(made)[f"{made.name}.svg"]


def test_an_interval_is_a_whisker_of_its_arm() -> None:
    svg = for_page(figure([Point(1, 5, "five", (4, 7)), Point(2, 5, "open", (1, math.inf))]))
    root = ElementTree.fromstring(svg)
    lines = [path.get("d", "") for path in root.iterfind(".//g[@class='a1']/path")]
    assert len(lines) == 3  # the line between the points, and two whiskers
    start, end = map(float, re.findall(r"[ML][\d.]+ ([\d.]+)", lines[1]))
    assert end < marks(svg)[0][2] < start


def test_colours_are_variables_and_fonts_are_left_to_the_page() -> None:
    svg = for_page(dots((1, 1), (2, 2)))
    assert re.findall("#[0-9a-f]{6}|font|url|rgb", svg) == []
    assert {"var(--a1)", "var(--rule)", "var(--soft)"} <= set(re.findall(r"var\(--\w+\)", svg))


def test_a_figure_is_the_same_file_whatever_the_settings_of_the_user() -> None:
    made = dots((1, 1), (2, 3), (3, 2))
    before = files(made)
    with matplotlib.rc_context({"axes.grid": False, "font.size": 30, "svg.hashsalt": "other"}):
        assert files(made) == before
        assert matplotlib.rcParams["font.size"] == 30
    assert set(before) == {"made-up.svg", "made-up.pdf", "made-up.png"}
    text = before["made-up.svg"].decode()
    assert {">x</text>", ">y</text>", ">arm</text>"} <= set(re.findall(r">\w+</text>", text))
    assert not re.search(r"20\d\d-\d\d", text)


def test_a_file_has_a_legend_with_each_style_once() -> None:
    styles = [Style("other", "layer 3"), Style("other", "layer 4"), Style("a0", "none")]
    series = [Series(style, [Point(1, 2)], hollow=hollow) for style in styles for hollow in (0, 1)]
    made = Figure("Made up", "", series, Axis("x"), Axis("y"))
    text = files(made)["made-up.svg"].decode()
    assert re.findall(r">(none|layer \d|all others)</text>", text) == ["none", "all others"]
    legend = text[text.index('id="legend') :]
    assert "fill: #ffffff" not in legend[legend.index("<use") :]  # the filled mark


def test_whoever_only_looks_does_not_wait_for_matplotlib() -> None:
    code = "import sys, pressft.report.page, pressft.report.terminal; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pressft.report.figures" in done.stdout.split()
    assert "matplotlib" not in done.stdout.split()
    assert "pressft.corpus.load" not in done.stdout.split()  # a report reads no corpus


def test_every_mark_is_drawn_around_its_place() -> None:
    found = drawing.marks()
    assert set(found) == {*drawing.MARKS, "arrow"}
    for path in found.values():
        assert re.fullmatch(r"(M|L|C|Q|z|-?\d+\.\d\d| )+", path)
        numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", path)]
        assert max(numbers) <= 7
        assert min(numbers) >= -7


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (40, "40"), (1.5, "1.5"), (12000, "12k"), (3_540_000, "3.54M"), (5e-4, "5e-4")],
)
def test_axis_numbers_are_short(value: float, text: str) -> None:
    assert tick_label(value) == text
