"""The pieces that sections are made of, as plain data: tables, and figures in two widths. `macros.html` draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from peelaudit.escape import printable
from peelaudit.records import Estimate, Verdict
from peelaudit.records.quantities import Form
from peelaudit.reports.wording.tables import with_interval
from peelaudit.reports.wording.text import abbreviate, interval, number, signed, verdict_text

__all__ = [
    "Cell",
    "Column",
    "Figure",
    "Legend",
    "Table",
    "figure",
    "figure_cell",
    "number_cell",
    "path_text",
    "schedule_name",
    "settings_table",
    "signed_cell",
    "table",
    "verdict_cell",
]

MANY_COLUMNS = 9
"""Of more a stacked table is set small, so that a window of 1280 pixels shows all."""

_WIDE, _NARROW = 1060, 356

Legend = tuple[tuple[Markup, str], ...]
"""Samples as SVG, each with its words."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column's header. `right` is for numbers, `wide` for sentences; `explained` is shown on pointing at it."""

    title: str
    right: bool = False
    wide: bool = False
    explained: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell shows, and what it is sorted by; where it leads, and the verdict whose colour it has."""

    text: str
    key: str = ""
    link: str = ""
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first cell of a row is its header. `notes` has a text for each row, which is a line of its own under
    it where it isn't empty. A `stacked` table never scrolls sideways: where there is no room, its cells stand below one
    another, each with its column's name.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = False
    small: bool = False
    stacked: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart drawn for a desk and for a phone, of which the page shows one."""

    wide: Markup
    narrow: Markup
    caption: str
    legend: Legend = ()


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | str]],
    *,
    sortable: bool = False,
    small: bool = False,
    stacked: bool = False,
    notes: Iterable[str] = (),
) -> Table:
    """A table of cells, or of texts that are sorted as they are."""
    cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    small = small or (stacked and len(columns) > MANY_COLUMNS)
    return Table(caption, tuple(columns), cells, sortable, small, stacked, tuple(notes))


def figure(draw: Callable[[int], Markup], caption: str, legend: Legend = ()) -> Figure:
    """A chart of both widths; `draw` is given each of them in pixels."""
    return Figure(draw(_WIDE), draw(_NARROW), caption, legend)


def number_cell(value: float) -> Cell:
    """A loss or a ratio, sorted unrounded."""
    return Cell(number(value), repr(float(value)))


def signed_cell(estimate: Estimate) -> Cell:
    """A difference with its interval, sorted by the value."""
    return Cell(f"{signed(estimate.value)} ({interval(estimate, sign=True)})", repr(float(estimate.value)))


def figure_cell(figure: Estimate | None, form: Form) -> Cell | str:
    """A figure, with its interval where it is a difference; sorted by the value."""
    return "" if figure is None else Cell(with_interval(figure, form), repr(float(figure.value)))


def verdict_cell(verdict: Verdict) -> Cell:
    """A verdict in its colour, sorted by gravity."""
    order = (Verdict.RED, Verdict.YELLOW, Verdict.GREY, Verdict.GREEN)
    return Cell(verdict_text(verdict), str(order.index(verdict)), verdict=verdict)


def schedule_name(schedule: str) -> str:
    """A schedule's name as far as it fits into a column: an explicit mapping has a number for each layer."""
    return abbreviate(printable(schedule), 28)


def path_text(path: str) -> str:
    """A checkpoint's path as far as it fits into a table or a heading."""
    return abbreviate(printable(path), 96)


def settings_table(settings: Iterable[tuple[str, object]]) -> Table:
    """What was asked for."""
    rows = [(name.replace("_", "-"), _setting(value)) for name, value in settings]
    return table("Settings", [Column("setting"), Column("value")], rows)


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(_setting, value)) if isinstance(value, tuple) else str(value)
