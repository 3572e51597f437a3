"""The YES cloud of a training run as SVG: trained loss over steps, the running minima of YES-0 and YES*, the regions.

`cloud_svg` stands alone as a file; `cloud_chart` is the same picture for a page that has charts.css.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from peelaudit.records import Verdict
from peelaudit.reports.formats.charts import Axis, drawing, mark, ticks
from peelaudit.reports.formats.markup import element
from peelaudit.reports.formats.resources import text_of
from peelaudit.reports.trajectory import Cloud
from peelaudit.reports.wording.text import count, number, verdict_text

__all__ = ["cloud_chart", "cloud_svg"]

_LEFT, _TOP, _AXIS, _LEGEND_ROW, _RIGHT = 58, 16, 44, 20, 96
_LABEL_ROW = 15  # pixels between the names of two lines
_PLOT_HEIGHT = 300
_MARKED = 60  # with more checkpoints than this, the line alone
_TITLES = {
    "held_out": "YES cloud, held-out tokens",
    "fit": "YES cloud, fit tokens, as in the paper",
}


def cloud_svg(cloud: Cloud, *, width: int = 900, unit: str = "step") -> str:
    """The cloud as an SVG file's text, ending in a newline. `unit` is what its steps count: `step`, `epoch`."""
    return _drawn(cloud, width, text_of("charts.css"), unit) + "\n"


def cloud_chart(cloud: Cloud, *, width: int) -> Markup:
    """The cloud as a part of a page, `width` pixels wide."""
    return _drawn(cloud, width, None, "step")


def _drawn(cloud: Cloud, width: int, style: Markup | None, unit: str) -> Markup:
    points = cloud.points
    losses = [v for p in points for v in (p.trained, p.least_yes0, p.least_yes_star) if v is not None]
    room = (max(losses) - min(losses) or 1.0) * 0.08
    x = Axis(points[0].step, points[-1].step, _LEFT, width - _RIGHT)
    y = Axis(min(losses) - room, max(losses) + room, _TOP + _PLOT_HEIGHT, _TOP)
    legend, rows = _legend(cloud, width)
    identity = f"cloud-{cloud.split}-{width}"
    parts = [_patterns(identity), *_regions(cloud, x, y, identity), *_axes(cloud, x, y, width, unit)]
    parts += [*_lines(cloud, x, y, unit), *_labels(cloud, x, y), *legend]
    height = _TOP + _PLOT_HEIGHT + _AXIS + rows * _LEGEND_ROW
    return drawing(width, height, _title(cloud, unit), *parts, style=style)


def _title(cloud: Cloud, unit: str) -> str:
    first, last = cloud.points[0], cloud.points[-1]
    yes0 = "" if last.least_yes0 is None else f"least YES-0 {number(last.least_yes0)}, "
    return (
        f"{_TITLES[cloud.split]}: {count(len(cloud.points))} checkpoints, {unit}s {count(first.step)} to "
        f"{count(last.step)}; trained loss {number(first.trained)} to {number(last.trained)}, "
        f"{yes0}least YES* {number(last.least_yes_star)} nats/token; "
        f"the last in the {verdict_text(last.region)} region"
    )


def _patterns(identity: str) -> Markup:
    """Hatching for red and dots for yellow: regions that read without colour."""
    hatch = element("path", d="M0 8L8 0", class_="hatch")
    dots = element("circle", cx=2, cy=2, r=0.9, class_="dots")
    return element(
        "defs",
        element("pattern", hatch, id=f"{identity}-red", patternUnits="userSpaceOnUse", width=8, height=8),
        element("pattern", dots, id=f"{identity}-yellow", patternUnits="userSpaceOnUse", width=8, height=8),
    )


def _regions(cloud: Cloud, x: Axis, y: Axis, identity: str) -> list[Markup]:
    # Before there is a YES-0, nothing is above it.
    yes0 = _staircase([(p.step, y.high if p.least_yes0 is None else p.least_yes0) for p in cloud.points], x, y)
    star = _staircase([(p.step, p.least_yes_star) for p in cloud.points], x, y)
    top, bottom = [(x.start, y.end), (x.end, y.end)], [(x.start, y.start), (x.end, y.start)]
    areas = {"red": [*top, *reversed(yes0)], "yellow": [*yes0, *reversed(star)], "green": [*star, *reversed(bottom)]}
    parts = [element("path", d=_path(area) + "z", class_=f"area-{name}") for name, area in areas.items()]
    for name in ("red", "yellow"):
        parts.append(element("path", d=_path(areas[name]) + "z", fill=f"url(#{identity}-{name})"))
    return parts


def _staircase(values: Sequence[tuple[int, float]], x: Axis, y: Axis) -> list[tuple[float, float]]:
    """A running minimum holds from its step to the next one."""
    if len(values) == 1:
        return [(x.start, y(values[0][1])), (x.end, y(values[0][1]))]
    corners = [(x(values[0][0]), y(values[0][1]))]
    for (_, before), (step, after) in pairwise(values):
        corners += [(x(step), y(before)), (x(step), y(after))]
    return corners


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _axes(cloud: Cloud, x: Axis, y: Axis, width: int, unit: str) -> list[Markup]:
    parts = []
    for value, label in ticks(y.low, y.high, 6):
        parts.append(element("line", x1=_LEFT, x2=x.end, y1=y(value), y2=y(value), class_="grid"))
        parts.append(element("text", label, x=_LEFT - 6, y=y(value) + 4, class_="tick end"))
    base = float(_TOP + _PLOT_HEIGHT)
    if len(cloud.points) == 1:
        marks: Sequence[tuple[float, str]] = [(cloud.points[0].step, count(cloud.points[0].step))]
    else:
        marks = ticks(x.low, x.high, max(4, width // 110))
    for value, label in marks:
        parts.append(element("line", x1=x(value), x2=x(value), y1=base, y2=base + 4, class_="frame"))
        parts.append(element("text", label, x=x(value), y=base + 17, class_="tick mid"))
    parts.append(element("path", d=f"M{_LEFT} {_TOP}V{base:g}H{x.end:g}", class_="frame"))
    parts.append(element("text", "loss, nats/token", x=4, y=10, class_="axis"))
    parts.append(element("text", f"training {unit}", x=(x.start + x.end) / 2, y=base + 34, class_="axis mid"))
    return parts


def _lines(cloud: Cloud, x: Axis, y: Axis, unit: str) -> list[Markup]:
    points = cloud.points
    known = [(p.step, p.least_yes0) for p in points if p.least_yes0 is not None]
    star = _path(_staircase([(p.step, p.least_yes_star) for p in points], x, y))
    trained = _path([(x(p.step), y(p.trained)) for p in points])
    parts = [
        *([element("path", d=_path(_staircase(known, x, y)), class_="yes0")] if known else []),
        element("path", d=star, class_="yes-star"),
        element("path", d=trained, class_="trained"),
    ]
    if len(points) <= _MARKED:
        parts += [
            element(
                "g",
                element("title", f"{unit} {count(p.step)}: trained {number(p.trained)}, {verdict_text(p.region)}"),
                mark(p.region, x(p.step), y(p.trained), 4.5),
                class_=f"v-{p.region}",
            )
            for p in points
        ]
    return parts


def _labels(cloud: Cloud, x: Axis, y: Axis) -> list[Markup]:
    """Each line's name and last loss at its end, apart from one another however near the lines are."""
    last = cloud.points[-1]
    lines = [
        *([] if last.least_yes0 is None else [("YES-0", "yes0", last.least_yes0)]),
        ("YES*", "yes-star", last.least_yes_star),
        ("trained", "trained", last.trained),
    ]
    lines.sort(key=lambda line: y(line[2]))
    parts = []
    for at, (name, kind, value) in zip(_apart([y(value) for _, _, value in lines], y), lines, strict=True):
        parts.append(element("line", x1=x.end + 2, x2=x.end + 9, y1=y(value), y2=at, class_="leader"))
        parts.append(element("text", f"{name} {number(value)}", x=x.end + 11, y=at + 4, class_=f"label label-{kind}"))
    return parts


def _apart(heights: Sequence[float], y: Axis) -> list[float]:
    """Rising heights moved so that rows of text fit between them, all of them beside the plot."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + _LABEL_ROW) if moved else height)
    for index in reversed(range(len(moved))):
        most = y.start if index == len(moved) - 1 else moved[index + 1] - _LABEL_ROW
        moved[index] = min(moved[index], most)
    return moved


def _legend(cloud: Cloud, width: int) -> tuple[list[Markup], int]:
    """The lines, the regions and the marks in words; and in how many rows."""
    trained = "trained loss, the readout of the bounds" if cloud.split == "held_out" else "trained loss, own head"
    green = "meets YES*" if cloud.split == "held_out" else "at or below YES*"
    line = "M0 -4H26"
    identity = f"cloud-{cloud.split}-{width}"
    items = [
        (trained, element("path", d=line, class_="trained")),
        ("YES-0, least so far", element("path", d=line, class_="yes0")),
        ("YES*, least so far", element("path", d=line, class_="yes-star")),
        ("red, hatched, a cross: above YES-0", _swatch(Verdict.RED, identity)),
        ("yellow, dotted, a triangle: between", _swatch(Verdict.YELLOW, identity)),
        (f"green, plain, a disc: {green}", _swatch(Verdict.GREEN, identity)),
    ]
    columns = 3 if width >= 640 else 1
    top = _TOP + _PLOT_HEIGHT + _AXIS + 12
    parts = []
    for index, (words, sample) in enumerate(items):
        at = (8 + index % columns * (width // columns), top + index // columns * _LEGEND_ROW)
        label = element("text", words, x=34, y=0)
        parts.append(element("g", sample, label, transform=f"translate({at[0]} {at[1]})"))
    return parts, -(-len(items) // columns)


def _swatch(region: Verdict, identity: str) -> Markup:
    """A piece of a region with its mark."""
    box = "M0 -12H26V4H0z"
    layers = [element("path", d=box, class_=f"area-{region}")]
    if region is not Verdict.GREEN:
        layers.append(element("path", d=box, fill=f"url(#{identity}-{region})"))
    return Markup().join([*layers, element("g", mark(region, 13, -4, 4.5), class_=f"v-{region}")])
