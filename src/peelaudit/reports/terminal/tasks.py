"""A batch's checkpoints as a table: what became of each, and the network's figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records import TaskRow, TaskState
from peelaudit.reports.terminal.page import LEAST_WIDTH, STYLES, draw, prose, table
from peelaudit.reports.wording.escape import printable
from peelaudit.reports.wording.text import VERDICT_WORDS, abbreviate, interval, number, signed

__all__ = ["render"]

_STYLES = {TaskState.FAILED: "bold red", TaskState.RUNNING: "yellow", TaskState.PENDING: "dim"}
_WIDE = 100
_COLUMNS, _INTERVAL = 50, 17  # what stands beside the name, and the interval's column, which narrow pages lack


def render(rows: Sequence[TaskRow], *, width: int, colour: bool, encoding: str) -> str:
    """The page as text."""
    return draw(_parts(rows, max(width, LEAST_WIDTH)), width=width, colour=colour, encoding=encoding)


def _parts(rows: Sequence[TaskRow], width: int) -> Iterator[RenderableType]:
    counts = Counter(row.state for row in rows)
    words = ", ".join(f"{counts[state]} {state}" for state in TaskState if counts[state])
    yield prose(f"{len(rows)} checkpoint{'' if len(rows) == 1 else 's'}{': ' if rows else ''}{words}")
    if rows:
        yield Text("")
        yield _table(rows, width)
    if any(row.figures for row in rows):
        yield prose(("Figures of the whole network on held-out tokens, in nats/token.", "dim"))
    told = [row for row in rows if row.reason is not None]
    if told:
        yield Text("")
    for row in told:
        yield prose((f"{row.state} ", _STYLES.get(row.state, "")), f"{row.checkpoint}: {row.reason}")


def _table(rows: Sequence[TaskRow], width: int) -> Table:
    wide = width >= _WIDE
    room = width - _COLUMNS - (_INTERVAL if wide else 0)
    grid = table()
    for name in ("checkpoint", "state"):
        grid.add_column(name, no_wrap=True)
    for name in ("step", "trained", "YES*", "gap_layers", *(("95 %",) if wide else ())):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    for row in rows:
        path = Text(abbreviate(printable(row.checkpoint), room))
        grid.add_row(path, Text(row.state, _STYLES.get(row.state, "")), *_figures(row, wide=wide))
    return grid


def _figures(row: TaskRow, *, wide: bool) -> tuple[str | Text, ...]:
    found = row.figures
    if found is None:
        return ()
    return (
        "" if found.training_step is None else str(found.training_step),
        number(found.trained_loss.value),
        number(found.bound.value),
        signed(found.gap_layers.value),
        *((interval(found.gap_layers, sign=True),) if wide else ()),
        Text(f"{VERDICT_WORDS[found.verdict][0]} {found.verdict}", STYLES[found.verdict]),
    )
