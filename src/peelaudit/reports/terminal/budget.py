"""What `peelaudit budget` says: the headline, the losses, and how many bits each matrix has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records.budget import Budget
from peelaudit.reports.terminal.page import draw, pairs, prose, sums_table, table
from peelaudit.reports.wording.budget import footing, labels, runs, subject, sums, table_of

__all__ = ["render"]


def render(found: Budget, *, width: int, colour: bool, encoding: str) -> str:
    """The budget as text; see `peelaudit.reports.terminal.render_budget`."""
    return draw(_parts(found), width=width, colour=colour, encoding=encoding)


def _parts(found: Budget) -> Iterator[RenderableType]:
    yield pairs(((label, prose(text)) for label, text in subject(found)), label_width=7)
    yield Text("")
    yield prose((f"{found.headline[:1].upper()}{found.headline[1:]}.", "bold"))
    yield Text("")
    yield sums_table(sums(found))
    yield Text("")
    blocks = table_of(found)
    if blocks is None:
        width = max(map(len, labels(found).values()))
        yield pairs(((label, prose(text)) for label, text in runs(found)), label_width=width)
    else:
        yield _blocks(blocks)
    yield prose((footing(found), "dim"))


def _blocks(lines: Sequence[Sequence[str]]) -> Table:
    grid = table()
    for name in lines[0]:
        grid.add_column(name, justify="right", no_wrap=True)
    for line in lines[1:]:
        grid.add_row(*line)
    return grid
