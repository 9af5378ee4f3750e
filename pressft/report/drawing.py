"""Draws figures with matplotlib: as SVG for the page, as SVG, PDF and PNG files for papers.

Lengths are points of 1/72 inch, which on the page are the units of the SVG.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, Locator, LogLocator, MaxNLocator
from matplotlib.transforms import Affine2D, Transform, offset_copy

from pressft.report.figures import MAX_TICKS, Axis, Figure, Point, Series

WIDTH, HEIGHT = 560, 300  # a wide figure is twice as wide
LEFT, RIGHT, TOP, BOTTOM = 72, 18, 12, 46
LEVEL_WIDTH = 96  # right of the axes, where levels have their labels
ROW = 18  # height of a row of arrows above the axes
LETTER, WIDE_LETTER = 10, 7  # widths that keep labels apart at the font sizes of phone and desktop
COLOURS = {  # in light and in dark: of paper, text, lines and warnings, and of the arms
    "paper": ("#ffffff", "#0f1419"),
    "ink": ("#1b1f24", "#e6edf3"),
    "soft": ("#57606a", "#9da7b3"),
    "rule": ("#d0d7de", "#343b44"),
    "warn": ("#9a3412", "#ff8a4c"),
    "other": ("#8c959f", "#6e7681"),
    "a0": ("#010101", "#ffffff"),  # matplotlib leaves #000000 out of an SVG
    "a1": ("#0072b2", "#58a6e8"),
    "a2": ("#d55e00", "#ff8a4c"),
    "a3": ("#009e73", "#2fd0a0"),
    "a4": ("#9130f2", "#a100f2"),
    "a5": ("#592d00", "#f2ca00"),
    "a6": ("#1c1c8c", "#8c6946"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
MARKS = {"a0": "o", "a1": "s", "a2": "D", "a3": "^", "a4": "*", "a5": "v", "a6": "P", "other": "o"}
SIZES = {"a1": 7.0, "a2": 6.5, "a3": 8.5, "a4": 11.5, "a5": 8.5, "a6": 9.0}  # 8 unless given
ARROW = Path([(0, 6), (4, 1), (1.5, 1), (1.5, -6), (-1.5, -6), (-1.5, 1), (-4, 1), (0, 6)])
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "pressft",  # the same figure is the same file
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a dollar sign is a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["rule"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LIGHT["rule"],
    "lines.solid_capstyle": "butt",
    **{f"{axis}tick.{name}": 0 for axis in "xy" for name in ("major.size", "minor.size")},
    **{f"{axis}tick.labelcolor": LIGHT["soft"] for axis in "xy"},
    "legend.frameon": False,
}
ANONYMOUS = {  # no dates or versions in files
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def for_page(figure: Figure, *, wide: bool = False) -> str:
    """An `<svg>` element: groups have the style of their arm as their class, marks have `<title>`s
    and refer to `marks` by id, colours are CSS variables, fonts are left to the page."""
    with _settings():
        drawing = _draw(figure, wide=wide)
        root = ElementTree.fromstring(_saved(drawing.canvas, "svg", {}))
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        for child in list(element):
            if child.tag.endswith(("metadata", "defs")):
                element.remove(child)
        _lighten(element)
        if texts := drawing.texts.get(name := element.attrib.pop("id", "")):
            _entitle(element, name, texts)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": figure.title}
    return ElementTree.tostring(root, encoding="unicode")


def _lighten(element: ElementTree.Element) -> None:
    """Round coordinates, name colours, and drop what the page sets itself."""
    element.text, element.tail = element.text if element.tag == "text" else None, None
    element.attrib.pop("clip-path", None)
    for name in ("d", "x", "y", "transform"):
        if value := element.attrib.get(name):
            short = re.sub(r"(\.\d)\d+", r"\1", " ".join(value.split()))
            element.attrib[name] = re.sub(r" ?([A-Za-z]) ?", r"\1", short)
    if element.attrib.get("transform", "").startswith("rotate(-0"):
        del element.attrib["transform"]
    if style := element.attrib.get("style"):
        style = re.sub(r"font-[^;]*; ", "", style)
        for name, colour in LIGHT.items():
            style = style.replace(colour, f"var(--{name})")
        element.attrib["style"] = style


def _entitle(group: ElementTree.Element, name: str, texts: Sequence[str]) -> None:
    """Give a group its class, and each of its marks a hover text."""
    css, _, symbol = name.rpartition(" ")[0].partition(" #")
    group.attrib["class"] = css
    for parent in list(group.iter()):
        for mark, text in zip(parent.findall("{*}use"), texts, strict=False):
            parent.attrib["style"] = mark.attrib["style"]
            place = {axis: mark.attrib[axis] for axis in "xy"}
            mark.attrib = {"class": "mark", "href": f"#mark-{symbol}", **place}
            ElementTree.SubElement(mark, "title").text = text


def marks() -> dict[str, str]:
    """The mark of each style, and the arrow, as SVG paths around the origin."""
    return {name: _svg_path(_mark(name), SIZES.get(name, 8.0)) for name in [*MARKS, "arrow"]}


def _mark(name: str) -> MarkerStyle:
    return MarkerStyle(ARROW if name == "arrow" else MARKS[name])


def _svg_path(mark: MarkerStyle, size: float) -> str:
    path = mark.get_path().transformed(mark.get_transform() + Affine2D().scale(size, -size))
    letters = {1: "M", 2: "L", 3: "Q", 4: "C"}
    return "".join(
        letters[int(code)] + " ".join(f"{n:.2f}" for n in vertices) if int(code) in letters else "z"
        for vertices, code in path.iter_segments()
    )


def files(figure: Figure) -> dict[str, bytes]:
    """The figure, with a legend, by names of files: SVG, PDF and PNG."""
    with _settings():
        canvas = _draw(figure, wide=figure.wide).canvas
        labels = {part.style.name: part.style.label for part in figure.shown}
        handles = [_handle(name, label) for name, label in sorted(labels.items())]
        canvas.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
        return {
            f"{figure.name}.{form}": _saved(canvas, form, {"Title": figure.title})
            for form in ANONYMOUS
        }


def _handle(name: str, label: str) -> Line2D:
    """An arm's line and mark in the legend, or a dotted line."""
    if name not in MARKS:
        return Line2D([], [], label=label, color=LIGHT["other"], linestyle=(0, (2, 3)))
    size = SIZES.get(name, 8.0)
    return Line2D([], [], label=label, color=LIGHT[name], marker=_mark(name), markersize=size)


@contextmanager
def _settings() -> Iterator[None]:
    """Our settings in place of the user's, for drawing and for saving."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def _saved(canvas: Canvas, form: str, metadata: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    box = "tight" if metadata else None  # with the legend below
    canvas.savefig(
        out, format=form, dpi=200, bbox_inches=box, metadata={**ANONYMOUS[form], **metadata}
    )
    return out.getvalue()


def _draw(figure: Figure, *, wide: bool) -> "_Drawing":
    """The figure on a canvas of its own, without a legend."""
    shown, width = figure.shown, WIDTH * (2 if wide else 1)
    canvas = Canvas(figsize=(width / 72, HEIGHT / 72), dpi=72)
    arrows = any(point.y > figure.y.top for part in shown for point in part.points if part.marks)
    right = width - (LEVEL_WIDTH if figure.levels else RIGHT)
    top = HEIGHT - TOP - (2 * ROW if arrows else 0)
    box = (LEFT / width, BOTTOM / HEIGHT, (right - LEFT) / width, (top - BOTTOM) / HEIGHT)
    drawing = _Drawing(canvas, canvas.add_axes(box), WIDE_LETTER if wide else LETTER)
    drawing.scale(figure)
    drawing.label(figure)
    drawing.levels(figure)
    for part in shown:
        drawing.series(part)
    for row, hollow in enumerate((False, True)):
        drawing.arrows([part for part in shown if part.marks and part.hollow == hollow], row)
    return drawing


class _Drawing:
    """A canvas with its axes, and the hover texts of the marks of each group, by the group's id:
    classes, mark and a number."""

    def __init__(self, canvas: Canvas, axes: Axes, letter: int) -> None:
        self.canvas, self.axes, self.letter = canvas, axes, letter
        self.texts: dict[str, list[str]] = {}

    def scale(self, figure: Figure) -> None:
        """Fix the limits of both axes around all that is not too high for them."""
        axes, fits = self.axes, figure.y.fits
        points = [point for part in figure.shown for point in part.points]
        ends = [end for point in points for end in point.ends or () if fits(end)]
        heights = [*(point.y for point in points), *ends, *filter(fits, figure.levels.values())]
        heights = [height for height in heights if height <= figure.y.top] or heights
        scales = ["log" if axis.log else "linear" for axis in (figure.x, figure.y)]
        axes.set(xscale=scales[0], yscale=scales[1])
        axes.update_datalim([(points[0].x, height) for height in heights])
        axes.update_datalim([(point.x, heights[0]) for point in points])
        axes.autoscale_view()
        axes.autoscale(False)

    def label(self, figure: Figure) -> None:
        """Ticks, their labels as far as there is space, and the labels of the axes."""
        axes = self.axes
        axes.minorticks_off()
        axes.tick_params(pad=6)
        axes.yaxis.set_major_locator(_locator(figure.y, *axes.get_ylim()))
        axes.yaxis.set_major_formatter(lambda value, _: tick_label(value))
        low, high = axes.get_xlim()
        ticks = _locator(figure.x, low, high).tick_values(low, high)
        ticks = [tick for tick in ticks if low <= tick <= high]
        labels, step = [tick_label(tick) for tick in ticks], self.step(ticks)
        labels = [text if place % step == 0 else "" for place, text in enumerate(labels)]
        axes.set_xticks(ticks, labels)
        box = axes.get_window_extent()
        look: dict[str, Any] = {"ha": "center", "rotation_mode": "anchor"}
        middle = (box.x0 + box.x1) / 2
        self.canvas.text(middle / self.canvas.bbox.width, 8 / HEIGHT, figure.x.label, **look)
        left, middle = 18 / self.canvas.bbox.width, (box.y0 + box.y1) / 2 / HEIGHT
        self.canvas.text(left, middle, figure.y.label, rotation=90, **look)

    def step(self, ticks: Sequence[float]) -> int:
        """1 if there is space for the labels of all ticks, 2 for every second one, and so on."""
        for step in range(1, len(ticks)):
            shown = [(self.across(tick), len(tick_label(tick))) for tick in ticks[::step]]
            if all(y - x > ((n + m) / 2 + 0.5) * self.letter for (x, n), (y, m) in pairwise(shown)):
                return step
        return max(1, len(ticks))

    def across(self, x: float) -> float:
        """Where a value stands, from the left edge of the canvas."""
        return float(self.axes.transData.transform((x, self.axes.get_ylim()[0]))[0])

    def levels(self, figure: Figure) -> None:
        """Dashed lines; their labels by turns above the right end and below: they may be close."""
        levels = sorted(figure.levels.items(), key=lambda item: -item[1])
        for place, (text, y) in enumerate(levels):
            if figure.y.fits(y):
                self.axes.axhline(y, color=LIGHT["soft"], linewidth=1, dashes=(5, 4))
                right, beside = self.axes.get_yaxis_transform(), (5, -12 if place % 2 else 3)
                self.note(text, (1, y), right, beside)

    def note(
        self,
        text: str,
        place: tuple[float, float],
        transform: Transform,
        offset: tuple[float, float],
        side: str = "left",
    ) -> None:
        """A text that begins, or ends, beside a place."""
        look: dict[str, Any] = {"textcoords": "offset points", "color": LIGHT["soft"], "ha": side}
        self.axes.annotate(text, place, xycoords=transform, xytext=offset, **look)

    def series(self, part: Series) -> None:
        """A line, and whiskers and marks of the points that are not too high."""
        low, high = self.axes.get_ylim()
        if part.line:
            points = [replace(point, y=min(point.y, high)) for point in part.points]
            arm = part.style.name in MARKS
            width = 1.0 if part.faint else 2.0 if arm and part.style.name != "other" else 1.2
            look = {"linewidth": width, "linestyle": "-" if arm else (0, (2, 3))}
            self.plot(part, points, "", look | ({"alpha": 0.3} if part.faint else {}))
        points = [point for point in part.points if part.marks and point.y <= high]
        for point in points:
            ends = [Point(point.x, min(max(end, low), high)) for end in point.ends or ()]
            if ends:
                self.plot(part, ends, "", {"linewidth": 1.5})
        if points:
            self.marks(part, points, part.style.name)

    def plot(
        self, part: Series, points: Sequence[Point], symbol: str, look: dict[str, Any]
    ) -> None:
        """Points with the classes and the colour of a series."""
        name = f"{part.style.name}{' faint' * part.faint}{' hollow' * part.hollow} #{symbol}"
        gid = f"{name} {len(self.texts)}"
        self.texts[gid] = [point.text for point in points]
        look["color"] = LIGHT.get(part.style.name, LIGHT["other"])
        xs, ys = [point.x for point in points], [point.y for point in points]
        self.axes.plot(xs, ys, gid=gid, clip_on=False, **look)

    def marks(
        self, part: Series, points: Sequence[Point], symbol: str, transform: Transform | None = None
    ) -> None:
        """Marks at points, filled or hollow."""
        look = {"linestyle": "none", "marker": _mark(symbol), "markeredgewidth": 1.2}
        look |= {"markersize": SIZES.get(symbol, 8.0)}
        look |= {"markerfacecolor": LIGHT["paper"]} if part.hollow else {}
        look |= {"transform": transform} if transform else {}
        self.plot(part, points, symbol, look)

    def arrows(self, parts: Sequence[Series], row: int) -> None:
        """In a row above the axes, what is too high for them, with numbers where there is space."""
        axes, high = self.axes, self.axes.get_ylim()[1]
        found = [(p.x, p, part) for part in parts for p in part.points if p.y > high]
        found.sort(key=lambda item: item[0])
        edges = [*(self.across(x) for x, _, _ in found[1:]), axes.get_window_extent().x1]
        free, rise = 0.0, 12 + row * ROW
        upper = axes.get_xaxis_transform()
        for (x, point, part), following in zip(found, edges, strict=False):
            raised = offset_copy(upper, self.canvas, y=rise, units="points")
            self.marks(part, [replace(point, y=1)], "arrow", raised)
            text = tick_label(float(f"{point.y:.2g}"))
            at, need = self.across(x), len(text) * self.letter + 10
            if at + need < following - 5:  # else its label would stand on another one
                self.note(text, (x, 1), upper, (7, rise - 4))
                free = at + need
            elif at - need > free:
                self.note(text, (x, 1), upper, (-7, rise - 4), "right")
                free = at + 5


def _locator(axis: Axis, low: float, high: float) -> Locator:
    """Given ticks, or round values."""
    if axis.ticks:
        return FixedLocator(axis.ticks)
    if axis.log:
        subs = (1, 2, 5) if math.log10(high) - math.log10(low) < 3 else (1,)
        return LogLocator(subs=subs, numticks=MAX_TICKS)
    return MaxNLocator(MAX_TICKS, steps=[1, 2, 5, 10])


def tick_label(value: float) -> str:
    """A number for an axis: 40, 1.5, 12k, 0.0005 as 5e-4."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if 0 < size < 1e-2:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"
