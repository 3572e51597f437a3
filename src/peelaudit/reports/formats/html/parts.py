"""The pieces that sections are made of: headings, tables, figures in two widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from peelaudit.records import Estimate, Verdict
from peelaudit.reports.formats.markup import Markup, element, joined
from peelaudit.reports.wording.escape import printable
from peelaudit.reports.wording.text import abbreviate, interval, number, signed, verdict_text

__all__ = [
    "Cell",
    "Column",
    "figure",
    "heading",
    "listed",
    "number_cell",
    "path_text",
    "signed_cell",
    "table",
    "verdict_cell",
]

_WIDE, _NARROW = 1060, 356


@dataclass(frozen=True, slots=True)
class Column:
    """A column's header. `right` is for numbers; `wide` for sentences."""

    title: str
    right: bool = False
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell shows, and what it is sorted by."""

    shown: str
    key: str = ""


def number_cell(value: float) -> Cell:
    """A loss or a ratio, sorted unrounded."""
    return Cell(number(value), repr(float(value)))


def signed_cell(estimate: Estimate) -> Cell:
    """A difference with its interval, sorted by the value."""
    return Cell(f"{signed(estimate.value)} ({interval(estimate, sign=True)})", repr(float(estimate.value)))


def verdict_cell(verdict: Verdict) -> Cell:
    """A verdict in its colour, sorted by gravity."""
    order = (Verdict.RED, Verdict.YELLOW, Verdict.GREY, Verdict.GREEN)
    return Cell(element("span", verdict_text(verdict), class_=f"v v-{verdict}"), str(order.index(verdict)))


def path_text(path: str) -> str:
    """A checkpoint's path as far as it fits into a table or a heading."""
    return abbreviate(printable(path), 96)


def heading(level: int, text: str) -> Markup:
    """A heading of that level."""
    return element(f"h{level}", text)


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | str]],
    *,
    sortable: bool = False,
    small: bool = False,
) -> Markup:
    """A table that scrolls sideways inside its frame, never the page; the first cell of a row is its header."""
    head = element("tr", *(element("th", c.title, scope="col", class_="n" if c.right else None) for c in columns))
    body = [element("tr", *map(_cell, columns, row, [True] + [False] * len(columns))) for row in rows]
    classes = " ".join(name for name, wanted in (("sortable", sortable), ("small", small)) if wanted)
    grid = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", head),
        element("tbody", *body),
        class_=classes or None,
    )
    return element("div", grid, class_="scroll", role="region", aria_label=caption, tabindex=0)


def _cell(column: Column, cell: Cell | str, first: bool) -> Markup:
    found = cell if isinstance(cell, Cell) else Cell(cell)
    kind = "n" if column.right else "w" if column.wide else "name"
    if first:
        return element("th", found.shown, scope="row", class_=kind, data_v=found.key or None)
    return element("td", found.shown, class_=kind, data_v=found.key or None)


def figure(draw: Callable[[int], Markup], caption: str, *more: Markup) -> Markup:
    """A chart drawn for a desk and for a phone, of which the page shows one, with its caption."""
    return element(
        "figure",
        element("div", draw(_WIDE), class_="wide"),
        element("div", draw(_NARROW), class_="narrow"),
        *more,
        element("figcaption", caption),
    )


def listed(items: Iterable[str]) -> Markup:
    """A list."""
    return element("ul", joined(*(element("li", item) for item in items)))
