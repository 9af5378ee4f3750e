"""Draws figures with matplotlib: as SVG for the page, as SVG, PDF and PNG files for papers.

Lengths are points of 1/72 inch, which on the page are the units of the SVG.
"""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure as Canvas
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, Locator, LogLocator, MaxNLocator
from matplotlib.transforms import Affine2D, offset_copy

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
NOTE: dict[str, Any] = {"textcoords": "offset points", "color": LIGHT["soft"]}
ARROW = Path([(0, 6), (4, 1), (1.5, 1), (1.5, -6), (-1.5, -6), (-1.5, 1), (-4, 1), (0, 6)])
MARKS: dict[str, tuple[Any, float]] = {  # shapes, sizes
    "a0": ("o", 8.0),
    "a1": ("s", 7.0),
    "a2": ("D", 6.5),
    "a3": ("^", 8.5),
    "a4": ("*", 11.5),
    "a5": ("v", 8.5),
    "a6": ("P", 9.0),
    "other": ("o", 8.0),
    "arrow": (ARROW, 8.0),
}
THIN = dict.fromkeys(("other", "scan", "front"), 1.2)  # lines behind those of the arms
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
    "lines.markeredgewidth": 1.2,
    **{f"{axis}tick.major.size": 0 for axis in "xy"},
    **{f"{axis}tick.major.pad": 6 for axis in "xy"},
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
        drawing = _Drawing(figure, wide=wide)
        root = ElementTree.fromstring(_saved(drawing.canvas, "svg"))
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        for child in list(element):
            if child.tag.endswith(("metadata", "defs")):
                element.remove(child)
        _lighten(element)
        name = element.attrib.pop("id", "")
        if texts := drawing.texts.get(name):
            _entitle(element, name, texts)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": figure.title}
    return ElementTree.tostring(root, encoding="unicode")


def _lighten(element: ElementTree.Element) -> None:
    """Round coordinates, name colours, and drop what the page sets itself."""
    element.text, element.tail = element.text if element.tag == "text" else None, None
    element.attrib.pop("clip-path", None)
    for name in element.attrib.keys() & {"d", "x", "y", "transform"}:
        short = re.sub(r"(\.\d)\d+", r"\1", " ".join(element.attrib[name].split()))
        element.attrib[name] = re.sub(r" ?([A-Za-z]) ?", r"\1", short)
    if element.attrib.get("transform", "").startswith("rotate(-0"):
        del element.attrib["transform"]
    if style := element.attrib.get("style"):
        style = re.sub(r"font-[^;]*; ", "", style)
        colours = {colour: f"var(--{name})" for name, colour in LIGHT.items()}
        element.attrib["style"] = re.sub("#[0-9a-f]{6}", lambda m: colours.get(m[0], m[0]), style)


def _entitle(group: ElementTree.Element, name: str, texts: Sequence[str]) -> None:
    """Give a group its class, and each of its marks a hover text."""
    group.attrib["class"], _, symbol = name.rpartition(" ")[0].partition(" #")
    for parent in list(group.iter()):
        for mark, text in zip(parent.findall("{*}use"), texts, strict=False):
            parent.attrib["style"] = mark.attrib["style"]
            place = {axis: mark.attrib[axis] for axis in "xy"}
            mark.attrib = {"class": "mark", "href": f"#mark-{symbol}", **place}
            ElementTree.SubElement(mark, "title").text = text


def marks() -> dict[str, str]:
    """The mark of each style, and the arrow, as SVG paths around the origin."""
    letters = {1: "M", 2: "L", 3: "Q", 4: "C"}
    found = {}
    for name, (shape, size) in MARKS.items():
        mark = MarkerStyle(shape)
        path = mark.get_path().transformed(mark.get_transform() + Affine2D().scale(size, -size))
        found[name] = "".join(
            letters[int(code)] + " ".join(f"{n:.2f}" for n in ends) if code in letters else "z"
            for ends, code in path.iter_segments()
        )
    return found


def files(figure: Figure) -> dict[str, bytes]:
    """The figure, with a legend, by names of files: SVG, PDF and PNG."""
    with _settings():
        drawing = _Drawing(figure, wide=figure.wide)
        drawing.legend()
        look = {"dpi": 200, "bbox_inches": "tight"}  # with the legend, below
        return {f"{figure.name}.{form}": _saved(drawing.canvas, form, **look) for form in ANONYMOUS}


def _saved(canvas: Canvas, form: str, **look: Any) -> bytes:  # noqa: ANN401
    out = io.BytesIO()
    canvas.savefig(out, format=form, metadata=ANONYMOUS[form], **look)
    return out.getvalue()


@contextmanager
def _settings() -> Iterator[None]:
    """Our settings in place of the user's, for drawing and for saving."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


class _Drawing:
    """A figure on a canvas of its own, and the hover texts of the points of each group, by the id
    of the group: its classes, its mark and a number."""

    def __init__(self, figure: Figure, *, wide: bool) -> None:
        self.figure, self.shown = figure, figure.shown
        self.letter = WIDE_LETTER if wide else LETTER
        self.texts: dict[str, list[str]] = {}
        width = WIDTH * (2 if wide else 1)
        self.canvas = Canvas(figsize=(width / 72, HEIGHT / 72), dpi=72)
        points = [point for part in self.shown for point in part.points if part.marks]
        right = width - (LEVEL_WIDTH if figure.levels else RIGHT)
        top = HEIGHT - TOP - (2 * ROW if any(p.y > figure.y.top for p in points) else 0)
        box = (LEFT / width, BOTTOM / HEIGHT, (right - LEFT) / width, (top - BOTTOM) / HEIGHT)
        self.axes = self.canvas.add_axes(box)
        self.scale()
        self.label_x((right + LEFT) / 2 / width)
        self.label_y(18 / width, (top + BOTTOM) / 2 / HEIGHT)
        self.levels()
        for part in self.shown:
            self.series(part)
        self.arrows(hollow=False, rise=12)
        self.arrows(hollow=True, rise=12 + ROW)

    def scale(self) -> None:
        """Fix the limits of both axes around all that is not too high for them."""
        axes, x, y = self.axes, self.figure.x, self.figure.y
        points = [point for part in self.shown for point in part.points]
        heights = [h for p in points for h in (p.y, *p.ends)] + [*self.figure.levels.values()]
        heights = [height for height in heights if y.fits(height)]
        heights = [height for height in heights if height <= y.top] or heights
        axes.set(xscale="log" if x.log else "linear", yscale="log" if y.log else "linear")
        axes.update_datalim([(points[0].x, height) for height in heights])
        axes.update_datalim([(point.x, heights[0]) for point in points])
        axes.autoscale_view()
        axes.autoscale(False)
        axes.minorticks_off()

    def label_x(self, middle: float) -> None:
        """Ticks, the labels of all of them or of every second, third, ..., and a label below."""
        low, high = self.axes.get_xlim()
        ticks = _locator(self.figure.x, low, high).tick_values(low, high)
        ticks = [tick for tick in ticks if low <= tick <= high]
        spots = [(self.across(x), len(tick_label(x)) * self.letter / 2) for x in ticks]
        step = 1
        while any(b - a < m + n + self.letter / 2 for (a, m), (b, n) in pairwise(spots[::step])):
            step += 1
        labels = [tick_label(x) if i % step == 0 else "" for i, x in enumerate(ticks)]
        self.axes.set_xticks(ticks, labels)
        self.canvas.text(middle, 8 / HEIGHT, self.figure.x.label, ha="center")

    def label_y(self, left: float, middle: float) -> None:
        """Ticks, and a label beside them, upwards."""
        self.axes.yaxis.set_major_locator(_locator(self.figure.y, *self.axes.get_ylim()))
        self.axes.yaxis.set_major_formatter(lambda value, _: tick_label(value))
        look: dict[str, Any] = {"rotation": 90, "ha": "center", "rotation_mode": "anchor"}
        self.canvas.text(left, middle, self.figure.y.label, **look)

    def across(self, x: float) -> float:
        """How far a value is from the left edge of the canvas."""
        return float(self.axes.transData.transform((x, self.axes.get_ylim()[0]))[0])

    def levels(self) -> None:
        """Dashed lines; their labels by turns above the right end and below: they may be close."""
        levels = sorted(self.figure.levels.items(), key=lambda item: -item[1])
        right = self.axes.get_yaxis_transform()
        for place, (text, y) in enumerate(levels):
            if self.figure.y.fits(y):
                self.axes.axhline(y, color=LIGHT["soft"], linewidth=1, dashes=(5, 4))
                beside = (5, -12 if place % 2 else 3)
                self.axes.annotate(text, (1, y), xycoords=right, xytext=beside, **NOTE)

    def series(self, part: Series) -> None:
        """Its line, and the marks and whiskers of the points that are not too high."""
        low, high = self.axes.get_ylim()
        points = [p for p in part.points if p.y <= high] if part.marks else part.points
        for point in points:
            if point.ends:
                ends = [Point(point.x, min(max(end, low), high)) for end in point.ends]
                self.plot(part, ends, "", linewidth=1.5)
        points = [replace(point, y=min(point.y, high)) for point in points]
        name, line = part.style.name, "-" if part.style.name in MARKS else (0, (2, 3))
        if points:
            self.plot(
                part,
                points,
                name if part.marks else "",
                linestyle=line if part.line else "none",
                linewidth=1.0 if part.faint else THIN.get(name, 2.0),
                alpha=0.3 if part.faint and not part.marks else None,
                label=part.style.entry,
            )

    def plot(self, part: Series, points: Sequence[Point], symbol: str, **look: Any) -> None:  # noqa: ANN401
        """Points in the colour of a series, with a mark if there is a `symbol`."""
        name = f"{part.style.name}{' faint' * part.faint}{' hollow' * part.hollow} #{symbol}"
        gid = f"{name} {len(self.texts)}"
        self.texts[gid] = [point.text for point in points]
        look["color"] = LIGHT.get(part.style.name, LIGHT["other"])
        if symbol:
            look["marker"], look["markersize"] = MARKS[symbol]
            look["markerfacecolor"] = LIGHT["paper"] if part.hollow else look["color"]
        xs, ys = [point.x for point in points], [point.y for point in points]
        self.axes.plot(xs, ys, gid=gid, clip_on=False, **look)

    def arrows(self, *, hollow: bool, rise: float) -> None:
        """In a row above the axes, what is too high for them, with numbers where there is space."""
        high, edge = self.axes.get_ylim()[1], self.axes.get_window_extent().x1
        upper = self.axes.get_xaxis_transform()
        raised = offset_copy(upper, self.canvas, y=rise, units="points")
        parts = [part for part in self.shown if part.marks and part.hollow == hollow]
        found = [(p.x, p, part) for part in parts for p in part.points if p.y > high]
        found.sort(key=lambda item: item[0])
        edges, free = [*(self.across(x) for x, _, _ in found[1:]), edge], 0.0
        for (x, point, part), following in zip(found, edges, strict=False):
            self.plot(part, [replace(point, y=1)], "arrow", transform=raised, linestyle="none")
            text = tick_label(float(f"{point.y:.2g}"))
            at, need = self.across(x), len(text) * self.letter + 10
            right = at + need < following - 5  # else it would stand on the next one
            if right or at - need > free:
                beside, side = (7, "left") if right else (-7, "right")
                where = NOTE | {"xytext": (beside, rise - 4), "ha": side}
                self.axes.annotate(text, (x, 1), xycoords=upper, **where)
            free = at + (need if right else 5)

    def legend(self) -> None:
        """Below the axes, an entry a style, the arms first."""
        lines = sorted(self.axes.get_legend_handles_labels()[0], key=lambda e: str(e.get_gid()))
        first = {line.get_label(): line for line in reversed(lines)}  # not faint, not hollow
        look: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 4}
        self.canvas.legend(handles=[*first.values()][::-1], **look)


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
    if size >= 1e4:
        return f"{value / 1e6:g}M" if size >= 1e6 else f"{value / 1e3:g}k"
    if 0 < size < 1e-2:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"
