"""What `peelaudit diff` says: the headline, the losses as an equation, a row for each part, and what broke."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records.difference import Difference
from peelaudit.reports.terminal.page import LEAST_WIDTH, draw, pairs, prose, sums_table, table
from peelaudit.reports.terminal.summary import BAR
from peelaudit.reports.wording.difference import changed_words, part_lines, so_far, subject, sums

__all__ = ["render"]

_BAR = 40
_COLUMNS = 71
"""Of all other columns."""


def render(found: Difference, *, width: int, colour: bool, encoding: str) -> str:
    """The difference as text; see `peelaudit.reports.terminal.render_difference`."""
    width = max(width, LEAST_WIDTH)
    return draw(_parts(found, width), width=width, colour=colour, encoding=encoding)


def _parts(found: Difference, width: int) -> Iterator[RenderableType]:
    yield pairs(((label, prose(text)) for label, text in subject(found)), label_width=4)
    yield Text("")
    yield prose((f"{found.headline[:1].upper()}{found.headline[1:]}.", "bold"))
    yield from (prose(("! ", "yellow"), f"{finding}.") for finding in found.findings)
    yield prose((changed_words(found), "dim"))
    if all(row.same for row in found.rows):
        return
    yield Text("")
    yield sums_table(sums(found))
    yield Text("")
    lines = part_lines(found)
    yield _rows(found, width)
    if lines.rest:
        yield prose((lines.rest, "dim"))
    yield from (prose(line) for line in so_far(found, width))
    words = (
        "in BASE: the loss with NEW's part in BASE, less BASE's; in NEW: NEW's less that with BASE's part in it. KL: "
        "of BASE's predictions and those with NEW's part. weights: the size of their difference."
    )
    yield prose((words, "dim"))


def _rows(found: Difference, width: int) -> Table:
    grid = table()
    grid.add_column("part", no_wrap=True, min_width=15)
    for name in ("in BASE", "95 %", "in NEW", "KL", "weights"):
        grid.add_column(f" {name}", justify="right", no_wrap=True)
    room = min(_BAR, width - _COLUMNS)
    grid.add_column("", width=room, no_wrap=True, style="cyan")
    for line in part_lines(found).lines:
        bar = BAR * round((room - 1) * line.share)
        texts = (line.in_base, line.interval, line.in_new, line.kl, line.weights)
        grid.add_row(Text(line.label, "yellow" if line.apart else ""), *(f" {text}" for text in texts), f" {bar}")
    return grid
