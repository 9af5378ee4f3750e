"""Charts as SVG text: points, lines and whiskers on linear or logarithmic axes. No dependencies.

Colours and marks come from the page: every series carries the class of its arm, so that one rule
gives an arm one colour throughout, and hides it everywhere when it is switched off.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 560, 300  # of a chart; a wide one is twice as wide
LEVEL_WIDTH = 96  # right of the plot, where levels have their labels
LEFT, RIGHT, TOP, BOTTOM = 72, 18, 12, 46
LETTER = 10  # width of a letter at 17 pixels, the size on a phone: labels keep clear of each other
MARKS = ("circle", "square", "diamond", "triangle", "cross", "bar", "star")
MAX_TICKS = 6


@dataclass(frozen=True, slots=True)
class Point:
    """Where, the ends of its interval if it has one, and what is said of it on hover."""

    x: float
    y: float
    tip: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one class; joined by a line where `line`, marked where `mark` names a shape,
    which is filled unless `hollow`."""

    css: str
    points: tuple[Point, ...]
    line: bool = False
    mark: str = ""
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """Label and scale; `ticks` are chosen unless given, between `whole` numbers at whole ones. What
    lies above `top` stands at the upper edge as an arrow with its value."""

    label: str
    log: bool = False
    ticks: tuple[float, ...] = ()
    top: float = math.inf
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line across the plot with its label."""

    y: float
    label: str


def plot(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    title: str,
    levels: Sequence[Level] = (),
    *,
    wide: bool = False,
) -> str:
    """An `<svg>` of the series; what is not finite, or not positive on a logarithmic axis, is left
    out. `title` is what a screen reader says. Empty where there is nothing to draw."""
    shown = [_drawable(item, x, y) for item in series]
    points = [point for item in shown for point in item.points]
    if not points:
        return ""
    ends = [end for p in points for end in (p.low, p.high) if end is not None and _fits(end, y)]
    heights = [*(p.y for p in points), *ends, *(level.y for level in levels)]
    heights = [height for height in heights if height <= y.top] or heights
    width = (2 if wide else 1) * WIDTH
    across = _Scale([p.x for p in points], x, LEFT, width - (LEVEL_WIDTH if levels else RIGHT))
    arrows = 34 if any(p.y > y.top for p in points) else 0
    up = _Scale(heights, y, HEIGHT - BOTTOM, TOP + arrows)
    parts = [
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_grid(across, up, x, y),
        *(
            _level(number, level, up, across)
            for number, level in enumerate(sorted(levels, key=lambda level: -level.y))
        ),
        *(_series(item, across, up) for item in shown if item.points),
        *_arrows(shown, across, up, LETTER if not wide else 7),
        "</svg>",
    ]
    return "".join(parts)


class _Scale:
    """Maps values to pixels between `start` and `end`, with a margin inside."""

    def __init__(self, values: Sequence[float], axis: Axis, start: float, end: float) -> None:
        self.log, self.whole, self.start, self.end = axis.log, axis.whole, start, end
        inner = [self._inner(value) for value in values]
        low, high = min(inner), max(inner)
        margin = (high - low) * 0.05 or abs(low) * 0.1 or 1.0
        self.low, self.high = low - margin, high + margin
        self.ticks = [tick for tick in axis.ticks or self._choose() if self._within(tick)]

    def __call__(self, value: float) -> float:
        share = (self._inner(value) - self.low) / (self.high - self.low)
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 1)

    def misses(self, value: float) -> bool:
        """Whether a value lies above the plot."""
        return self._inner(value) > self.high

    def _inner(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _within(self, value: float) -> bool:
        return self.low <= self._inner(value) <= self.high

    def _choose(self) -> list[float]:
        if not self.log:
            ticks = _nice(self.low, self.high)
            return [tick for tick in ticks if tick == round(tick)] if self.whole else ticks
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            ticks = [digit * 10.0**power for power in powers for digit in digits]
            inside = [tick for tick in ticks if self._within(tick)]
            if len(inside) <= MAX_TICKS:
                break
        if len(inside) >= 2:
            return inside[:: -(-len(inside) // MAX_TICKS)]
        return [tick for tick in _nice(10**self.low, 10**self.high) if tick > 0]


def _nice(low: float, high: float) -> list[float]:
    """Round numbers from low to high, a step of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / MAX_TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _fits(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _drawable(series: Series, x: Axis, y: Axis) -> Series:
    points = tuple(p for p in series.points if _fits(p.x, x) and _fits(p.y, y))
    return replace(series, points=points)


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, int(across.end)
    parts = [
        f'<path class="grid" d="M{LEFT} {up(tick)}H{right}"/>'
        f'<text x="{LEFT - 7}" y="{up(tick) + 4}" text-anchor="end">{short(tick)}</text>'
        for tick in up.ticks
    ]
    free = 0.0  # to the right of the labels so far
    for tick in across.ticks:
        at, text = across(tick), short(tick)
        parts.append(f'<path class="grid" d="M{at:g} {bottom}v5"/>')
        if at - len(text) * LETTER / 2 > free:
            parts.append(f'<text x="{at:g}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
            free = at + len(text) * LETTER / 2
    middle = (TOP + bottom) / 2
    return [
        *parts,
        f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>',
        f'<text class="label" x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x.label)}</text>",
        f'<text class="label" x="18" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 18 {middle})">{escape(y.label)}</text>',
    ]


def _level(number: int, level: Level, up: _Scale, across: _Scale) -> str:
    """The line; labels by turns above its right end and below it, for they may be close."""
    at, right = up(level.y), across.end
    beside = at + 12 if number % 2 else at - 3
    return (
        f'<path class="level" d="M{LEFT} {at}H{right:g}"/>'
        f'<text class="level" x="{right + 5:g}" y="{beside:g}">{escape(level.label)}</text>'
    )


def _series(series: Series, across: _Scale, up: _Scale) -> str:
    placed = [(across(p.x), up(p.y), p) for p in series.points]
    css = f"{series.css} hollow" if series.hollow else series.css
    parts = [f'<g class="{escape(css)}">']
    if series.line:
        path = "L".join(f"{x:g} {y:g}" for x, y, _ in placed)
        parts.append(f'<path class="line" d="M{path}"/>')
    if series.mark:
        for x, y, point in placed:
            if up.misses(point.y):
                continue  # it is an arrow
            if point.low is not None and point.high is not None:
                low, high = up(point.low), up(point.high)
                parts.append(f'<path class="whisker" d="M{x:g} {low:g}V{high:g}"/>')
            parts.append(
                f'<path class="mark {series.mark}" d="{mark_path(series.mark, x, y)}" '
                f'data-tip="{escape(point.tip)}"/>'
            )
    parts.append("</g>")
    return "".join(parts)


def _arrows(shown: Sequence[Series], across: _Scale, up: _Scale, letter: int) -> Iterator[str]:
    """At the upper edge what has no place below, hollow and filled marks in a row each."""
    for hollow, y in ((True, TOP), (False, TOP + 18)):
        row = [
            (across(point.x), item.css, point)
            for item in shown
            for point in item.points
            if item.mark and item.hollow == hollow and up.misses(point.y)
        ]
        row.sort(key=lambda arrow: arrow[0])
        free = 0.0  # to the right of what stands there so far
        ends = [*(x for x, _, _ in row[1:]), across.end]
        for (x, css, point), following in zip(row, ends, strict=False):
            text = f"{float(f'{point.y:.2g}') / 1000:g}k" if point.y >= 1000 else f"{point.y:.3g}"
            need, label = len(text) * letter + 10, ""
            if x + need < following - 5:  # else its label would stand on another one
                label = f'<text x="{x + 6:g}" y="{y + 8}">{text}</text>'
            elif x - need > free:
                label = f'<text x="{x - 6:g}" y="{y + 8}" text-anchor="end">{text}</text>'
            free = x + (need if x + need < following - 5 else 5)
            style = f"{css} hollow" if hollow else css
            shape = f"M{x:g} {y}l4 5h-2.5v6h-3v-6h-2.5z"
            yield (
                f'<g class="{escape(style)}"><path class="mark" d="{shape}" '
                f'data-tip="{escape(point.tip)}"/>{label}</g>'
            )


def mark_path(shape: str, x: float, y: float) -> str:
    """Path of a mark about nine pixels wide around (x, y)."""
    if shape == "circle":
        return f"M{x - 4:g} {y:g}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"
    return {
        "square": f"M{x - 4:g} {y - 4:g}h8v8h-8z",
        "diamond": f"M{x:g} {y - 5:g}l5 5l-5 5l-5 -5z",
        "triangle": f"M{x:g} {y - 5:g}l5 9h-10z",
        "cross": f"M{x - 4:g} {y - 4:g}l8 8m0 -8l-8 8",
        "bar": f"M{x - 5:g} {y - 2:g}h10v4h-10z",
        "star": f"M{x - 5:g} {y:g}h10M{x:g} {y - 5:g}v10",
    }[shape]


def short(value: float) -> str:
    """A number for an axis: 40, 1.5, 12k, 0.0005 as 5e-4."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if size < 1e-2:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"
