"""A batch's checkpoints as a table: what became of each, and the network's figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.escape import printable
from peelaudit.records import TaskRow, TaskState
from peelaudit.reports.terminal.page import LEAST_WIDTH, STYLES, draw, prose, table
from peelaudit.reports.wording.text import VERDICT_WORDS, fitting, interval, number, signed

__all__ = ["render"]

_STYLES = {TaskState.FAILED: "bold red", TaskState.RUNNING: "yellow", TaskState.PENDING: "dim"}
_WIDE = 100
_COLUMNS, _WIDER = 53, 15  # what stands beside the name, and what is more of it on a wide page
_NAMED = 8  # characters of the named layers


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
        words = "Of the whole network on held-out tokens, in nats/token."
        if _any_named(rows):
            words += " layers: those that look ill or stand out."
        if width >= _WIDE:
            words += " margin: how far the nearest peeled reference is behind the trained network."
        yield prose((words, "dim"))
    told = [row for row in rows if row.reason is not None]
    if told:
        yield Text("")
    for row in told:
        yield prose((f"{row.state} ", _STYLES.get(row.state, "")), f"{row.checkpoint}: {row.reason}")


def _table(rows: Sequence[TaskRow], width: int) -> Table:
    wide, named = width >= _WIDE, _any_named(rows)
    grid = table()
    for name in ("checkpoint", "state"):
        grid.add_column(name, no_wrap=True)
    for name in ("step", "gap_layers", "95 %", *(("trained", "margin") if wide else ())):
        grid.add_column(name, justify="right", no_wrap=True)
    for name in ("verdict", *(("layers",) if named else ())):
        grid.add_column(name, no_wrap=True)
    room = width - _COLUMNS - (_WIDER if wide else 0) - (_NAMED + 1 if named else 0)
    for row in rows:
        path = Text(_tail(printable(row.checkpoint), room))
        grid.add_row(path, Text(row.state, _STYLES.get(row.state, "")), *_figures(row, wide=wide, named=named))
    return grid


def _any_named(rows: Sequence[TaskRow]) -> bool:
    return any(row.figures is not None and row.figures.named for row in rows)


def _tail(path: str, width: int) -> str:
    """The end of a path, by which checkpoints of a run are told apart."""
    return path if len(path) <= width else f"…{path[len(path) - width + 1 :]}"


def _figures(row: TaskRow, *, wide: bool, named: bool) -> Iterator[str | Text]:
    found = row.figures
    if found is None:
        return
    yield "" if found.training_step is None else str(found.training_step)
    yield "" if found.gap_layers is None else signed(found.gap_layers.value)
    yield "" if found.gap_layers is None else interval(found.gap_layers, sign=True)
    if wide:
        yield number(found.trained_loss.value)
        yield "" if found.margin is None else signed(found.margin.value)
    yield Text(f"{VERDICT_WORDS[found.verdict][0]} {found.verdict}", STYLES[found.verdict])
    if named:
        yield fitting(list(map(str, found.named)), _NAMED)
