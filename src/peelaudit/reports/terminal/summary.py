"""The page that a report is by default: the verdict, what it rests on, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records import AuditReport
from peelaudit.reports.terminal import schedules
from peelaudit.reports.terminal.page import prose, verdict_prose
from peelaudit.reports.wording.summary import (
    LayerLine,
    equation,
    growth_words,
    is_broken,
    layer_lines,
    subject,
)
from peelaudit.reports.wording.text import fitting

__all__ = ["BAR", "parts"]

BAR = "━"
_LABEL, _NAME, _LAYER, _FIGURE, _INTERVAL = 29, 12, 5, 7, 16
_LEAST_BAR, _MOST_BAR = 16, 40
_WORDS = 28  # of two symptoms


def parts(report: AuditReport, width: int, *, every_layer: bool) -> Iterator[RenderableType]:
    """The page's pieces; of a broken network the verdict and the advice alone."""
    path, rest = subject(report, width)
    yield prose((path, "bold"))
    yield prose(rest)
    yield Text("")
    yield verdict_prose(report.verdict, report.headline)
    yield Text("")
    if not is_broken(report):
        yield _equation(report)
        yield Text("")
        yield from _layers(report, width, every=every_layer)
        yield Text("")
    yield from _next(report.advice, width)


def _next(advice: str, width: int) -> Iterator[Text]:
    """What to do next; the command that it ends with stands by itself, as a shell takes it."""
    words, found, rest = advice.rpartition(": peelaudit ")
    try:
        command = shlex.split(rest) if found else []
    except ValueError:  # a saved report may say anything
        command = []
    if not command:
        yield prose(("Next: ", "bold"), advice)
        return
    yield prose(("Next: ", "bold"), words, ":")
    lines = ["  peelaudit"]
    for word in map(shlex.quote, command):
        if len(lines[-1]) + 1 + len(word) > width - 2:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    for line in lines:
        piece = prose(line)
        piece.no_wrap = True  # a word that is too long stays whole
        yield piece


def _equation(report: AuditReport) -> Table:
    grid = _grid(_LABEL)
    grid.add_column(style="dim")
    for term in equation(report, lambda name: schedules.short_name(report, name, _NAME)):
        grid.add_row(term.label, term.figure, term.interval, term.note)
    return grid


def _layers(report: AuditReport, width: int, *, every: bool) -> Iterator[RenderableType]:
    found = layer_lines(report, every=every)
    yield prose(found.caption)
    if found.lines:
        yield _rows(found.lines, width)
    if found.rest:
        yield prose((found.rest, "dim"))
    if words := growth_words(report):
        yield prose(words)


def _rows(lines: Sequence[LayerLine], width: int) -> Table:
    bar = max(_LEAST_BAR, min(_MOST_BAR, width - _LAYER - _FIGURE - _INTERVAL - _WORDS - 8))
    grid = _grid(_LAYER)
    grid.columns[0].justify = "right"
    grid.add_column(width=bar, no_wrap=True, style="cyan")
    grid.add_column(no_wrap=True)
    for line in lines:
        words = Text(fitting(line.words, _WORDS), "yellow" if line.apart else "dim")
        grid.add_row(str(line.layer), line.gap, line.interval, BAR * round(bar * line.share), words)
    return grid


def _grid(*widths: int) -> Table:
    """Columns of these widths, then those of a figure and its interval, two blanks between all."""
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for width in widths:
        grid.add_column(width=width, no_wrap=True)
    for width in (_FIGURE, _INTERVAL):
        grid.add_column(width=width, justify="right", no_wrap=True)
    return grid
