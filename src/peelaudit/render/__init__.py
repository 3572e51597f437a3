"""The report as a table for people: the terminal, a pipe, a .txt file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peelaudit.records import AuditReport, CheckpointInfo, TaskRow

__all__ = ["render_checkpoint", "render_report", "render_tasks"]


def render_report(report: AuditReport, *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """The report as text, ending in a newline.

    Args:
        report: a finished or a saved audit.
        width: columns; 80 at the least, where everything fits.
        colour: whether to write ANSI colours.
        encoding: what the text must be able to go through; ASCII stands in for what it can't take.
    """
    from peelaudit.render import report as page

    return page.render(report, width=width, colour=colour, encoding=encoding)


def render_checkpoint(
    info: CheckpointInfo, *, tensors: bool, width: int = 80, colour: bool = False, encoding: str = "utf-8"
) -> str:
    """A checkpoint's facts as text, ending in a newline; with `tensors`, a line for each of them."""
    from peelaudit.render import checkpoint as page

    return page.render(info, tensors=tensors, width=width, colour=colour, encoding=encoding)


def render_tasks(rows: Sequence[TaskRow], *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """What became of a batch's checkpoints, as text ending in a newline."""
    from peelaudit.render import tasks as page

    return page.render(rows, width=width, colour=colour, encoding=encoding)
