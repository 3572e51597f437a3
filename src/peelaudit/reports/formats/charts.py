"""The charts of a report as inline SVG: estimates side by side, and heat maps. Colours are in charts.css, by class.

A chart is drawn for a width in pixels, so that its labels are as large on a phone as on a desk. No chart needs its
colours: marks differ by shape, heat maps have numbers, in their cells or in a table beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from peelaudit.records import Estimate, Verdict
from peelaudit.reports.formats.markup import element

__all__ = [
    "ERROR_SCALE",
    "GAP_SCALE",
    "Axis",
    "HeatScale",
    "Mark",
    "drawing",
    "heat_map",
    "legend",
    "mark",
    "sample",
    "square",
    "ticks",
    "whiskers",
]

LEFT, TOP, BOTTOM = 52, 24, 40
_LABEL_ROOM = 26


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Mark:
    """One figure in a chart, by the name that the axis has for it: a layer, or a step. `words` is what a pointer that
    rests on it is told. One that `stands_out` has a mark of its own and its name beside it.
    """

    name: str
    figure: Estimate
    words: str
    verdict: Verdict | None = None
    stands_out: bool = False


@dataclass(frozen=True, slots=True)
class HeatScale:
    """Eight classes between seven `edges`; `name` is the first letter of their classes in the style sheet."""

    name: str
    edges: tuple[float, ...]
    form: Callable[[float], str]

    def index(self, value: float) -> int:
        """The class of a value: the number of edges at or below it."""
        return sum(edge <= value for edge in self.edges)

    def ranges(self) -> tuple[str, ...]:
        """The classes in words."""
        edges = [f"{edge:g}" for edge in self.edges]
        between = [f"{low} to {high}" for low, high in pairwise(edges)]
        return (f"below {edges[0]}", *between, f"{edges[-1]} and above")


ERROR_SCALE = HeatScale("e", (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "{:.3f}".format)
GAP_SCALE = HeatScale("g", (-0.1, -0.01, 0.01, 0.03, 0.1, 0.3, 1.0), "{:+.2f}".format)


def drawing(width: float, height: float, title: str, *children: str, style: Markup | None = None) -> Markup:
    """An SVG image of that size, which shrinks with its column. `style` makes one that stands alone."""
    return element(
        "svg",
        element("title", title),
        *(() if style is None else (element("style", style), _paper(width, height))),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=title,
        class_="chart",
    )


def _paper(width: float, height: float) -> Markup:
    """The background of an image that stands alone."""
    return element("rect", width=width, height=height, class_="paper")


def ticks(low: float, high: float, most: int) -> tuple[tuple[float, str], ...]:
    """Round values from `low` to `high`, `most` at most, with their labels, as many decimals as they need."""
    if not high > low:
        return ((low, f"{low:g}"),)
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple((index * step, f"{index * step:,.{decimals}f}") for index in range(first, last + 1))


def whiskers(marks: Sequence[Mark], *, title: str, unit: str, width: int, axis: str = "layer") -> Markup:
    """Estimates side by side, each with its interval as a whisker; a line at 0. `axis` is what their names count."""
    height = 300
    values = [0.0, *(bound for item in marks for bound in (item.figure.low, item.figure.value, item.figure.high))]
    room = (max(values) - min(values) or 1.0) * 0.06
    y = Axis(min(values) - room, max(values) + room, height - BOTTOM, TOP)
    x = Axis(0.5, len(marks) + 0.5, LEFT, width - 10)
    parts = [*_y_axis(y, width, unit), *_names(marks, x, height, axis)]
    parts.append(element("line", x1=LEFT, x2=width - 10, y1=y(0), y2=y(0), class_="zero"))
    size = max(1.5, min(5.0, (x(2) - x(1)) * 0.4))
    parts += [_whisker(item, x(index), y, size) for index, item in enumerate(marks, 1)]
    parts += [
        element("text", item.name, x=x(index), y=max(TOP, y(item.figure.high) - 5), class_="strong mid halo")
        for index, item in enumerate(marks, 1)
        if item.stands_out
    ]
    return drawing(width, height, title, *parts)


def _y_axis(y: Axis, width: int, unit: str) -> list[Markup]:
    parts = [element("text", unit, x=4, y=10, class_="axis")]
    for value, label in ticks(y.low, y.high, 6):
        parts.append(element("line", x1=LEFT, x2=width - 10, y1=y(value), y2=y(value), class_="grid"))
        parts.append(element("text", label, x=LEFT - 6, y=y(value) + 4, class_="tick end"))
    return parts


def _names(marks: Sequence[Mark], x: Axis, height: int, axis: str) -> list[Markup]:
    every = _label_step(x(2) - x(1), max(_LABEL_ROOM, 8 + 7 * max((len(item.name) for item in marks), default=0)))
    parts = [
        element("text", item.name, x=x(index), y=height - BOTTOM + 16, class_="tick mid")
        for index, item in enumerate(marks, 1)
        if _has_label(index - 1, every)
    ]
    return [*parts, element("text", axis, x=(x.start + x.end) / 2, y=height - 6, class_="axis mid")]


def _label_step(cell: float, room: float) -> int:
    """Every how many cells a label has the room that it needs."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**9) if step * cell >= room)


def _has_label(index: int, every: int) -> bool:
    """Whether cell `index`, from 0, is labelled: the first, and then every so many that aren't too near to it."""
    return index == 0 or ((index + 1) % every == 0 and index > every // 2)


def _whisker(item: Mark, x: float, y: Axis, size: float) -> Markup:
    figure, kind = item.figure, "strong" if item.stands_out else item.verdict or "plain"
    return element(
        "g",
        element("title", item.words),
        element("line", x1=x, x2=x, y1=y(figure.low), y2=y(figure.high), class_="whisker"),
        square(x, y(figure.value), size) if item.stands_out else mark(item.verdict, x, y(figure.value), size),
        class_=f"v-{kind}",
    )


def square(x: float, y: float, size: float) -> Markup:
    """The mark of what stands out."""
    return element("rect", x=x - size, y=y - size, width=2 * size, height=2 * size, class_="mark")


def mark(verdict: Verdict | None, x: float, y: float, size: float) -> Markup:
    """The mark of a verdict, told apart by its shape: cross, triangle, disc, diamond; a small disc for none."""
    match verdict:
        case Verdict.RED:
            cross = f"M{x - size:.1f} {y - size:.1f}l{2 * size:.1f} {2 * size:.1f}m0 {-2 * size:.1f}"
            return element("path", d=f"{cross}l{-2 * size:.1f} {2 * size:.1f}", class_="mark stroke")
        case Verdict.YELLOW:
            side = f"l{size:.1f} {2 * size:.1f}h{-2 * size:.1f}z"
            return element("path", d=f"M{x:.1f} {y - size:.1f}{side}", class_="mark")
        case Verdict.GREY:
            corner = f"l{size:.1f} {size:.1f}l{-size:.1f} {size:.1f}l{-size:.1f} {-size:.1f}z"
            return element("path", d=f"M{x:.1f} {y - size:.1f}{corner}", class_="mark hollow")
        case Verdict.GREEN | None:
            return element("circle", cx=float(x), cy=float(y), r=float(size if verdict else size * 0.7), class_="mark")


def heat_map(
    cells: Mapping[tuple[int, int], float],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    scale: HeatScale,
    title: str,
    axes: tuple[str, str],
    width: int,
) -> Markup:
    """Values by row and column, the first row on top. `axes` names the rows and the columns."""
    left, top = LEFT, 34
    cell = min((width - left - 8) / max(len(columns), 1), 96.0)
    tall = min(28.0, max(7.0, cell)) if len(rows) <= 40 else max(4.5, min(9.0, cell))
    height = top + tall * len(rows) + 8
    parts = [*_fills(cells, scale, left, top, cell, tall)]
    if cell >= 38 and tall >= 16:
        parts += _numbers(cells, scale, left, top, cell, tall)
    parts += [
        element("text", axes[0], x=4, y=top - 8, class_="axis"),
        element("text", axes[1], x=left, y=10, class_="axis"),
    ]
    across = _label_step(cell, max(_LABEL_ROOM, 8 + 7 * max(map(len, columns), default=0)))
    parts += [
        element("text", label, x=left + (index + 0.5) * cell, y=top - 8, class_="tick mid")
        for index, label in enumerate(columns)
        if _has_label(index, across)
    ]
    down = _label_step(tall, 14)
    parts += [
        element("text", label, x=left - 6, y=top + (index + 0.5) * tall + 4, class_="tick end")
        for index, label in enumerate(rows)
        if _has_label(index, down)
    ]
    return drawing(width, math.ceil(height), title, *parts)


def _fills(
    cells: Mapping[tuple[int, int], float], scale: HeatScale, left: float, top: float, cell: float, tall: float
) -> list[Markup]:
    """One path for each class: thousands of cells in few elements."""
    paths: dict[int, list[str]] = {}
    box = f"h{cell:.2f}v{tall:.2f}h{-cell:.2f}z"
    for (row, column), value in cells.items():
        corner = f"M{left + column * cell:.1f} {top + row * tall:.1f}"
        paths.setdefault(scale.index(value), []).append(corner + box)
    return [
        element("path", d="".join(parts), class_=f"cell {scale.name}{index}") for index, parts in sorted(paths.items())
    ]


def _numbers(
    cells: Mapping[tuple[int, int], float], scale: HeatScale, left: float, top: float, cell: float, tall: float
) -> list[Markup]:
    return [
        element(
            "text",
            scale.form(value),
            x=left + (column + 0.5) * cell,
            y=top + (row + 0.5) * tall + 4,
            class_=f"value mid {scale.name}t{scale.index(value)}",
        )
        for (row, column), value in cells.items()
    ]


def legend(scale: HeatScale) -> tuple[tuple[Markup, str], ...]:
    """A heat map's classes: a sample of each with its range."""
    box = "M0 0h14v14h-14z"
    samples = (element("path", d=box, class_=f"cell {scale.name}{index}") for index in range(len(scale.edges) + 1))
    return tuple((sample(drawn, 14), words) for drawn, words in zip(samples, scale.ranges(), strict=True))


def sample(drawn: Markup, size: int) -> Markup:
    """A small square image beside the words that say what it is."""
    return element("svg", drawn, width=size, height=size, class_="chart", aria_hidden="true")
