"""Reports as tables for people: the terminal, a pipe, a .txt file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peelaudit.records import AuditReport, CheckpointInfo, Fix, GateCheck, Selftest, TaskRow
    from peelaudit.records.budget import Budget
    from peelaudit.records.difference import Difference
    from peelaudit.reports.compare import Comparison
    from peelaudit.reports.trajectory import Trajectory

__all__ = [
    "render_budget",
    "render_checkpoint",
    "render_comparison",
    "render_difference",
    "render_fix",
    "render_gate",
    "render_report",
    "render_selftest",
    "render_tasks",
    "render_trajectory",
]


def render_report(
    report: AuditReport, *, full: bool = False, width: int = 80, colour: bool = False, encoding: str = "utf-8"
) -> str:
    """The report as text, ending in a newline: a page.

    Args:
        report: a finished or a saved audit.
        full: whether all that it holds is shown, below that page.
        width: columns; 80 at the least, where everything fits.
        colour: whether to write ANSI colours.
        encoding: what the text must be able to go through; ASCII stands in for what it can't take.
    """
    from peelaudit.reports.terminal import report as page

    return page.render(report, full=full, width=width, colour=colour, encoding=encoding)


def render_checkpoint(
    info: CheckpointInfo, *, tensors: bool, width: int = 80, colour: bool = False, encoding: str = "utf-8"
) -> str:
    """A checkpoint's facts as text, ending in a newline; with `tensors`, a line for each of them."""
    from peelaudit.reports.terminal import checkpoint as page

    return page.render(info, tensors=tensors, width=width, colour=colour, encoding=encoding)


def render_trajectory(trajectory: Trajectory, *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """A training run's YES cloud and its layers over the steps as text, ending in a newline."""
    from peelaudit.reports.terminal import trajectory as page

    return page.render(trajectory, width=width, colour=colour, encoding=encoding)


def render_gate(
    checks: Sequence[GateCheck],
    *,
    title: str = "The gate",
    width: int = 80,
    colour: bool = False,
    encoding: str = "utf-8",
) -> str:
    """What a gate says, a blank line before it, in the order of `checks`."""
    from peelaudit.reports.terminal import gate as page

    return page.render(checks, title=title, width=width, colour=colour, encoding=encoding)


def render_comparison(comparison: Comparison, *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """Two reports against each other as text, ending in a newline, with the gate's checks if there are any."""
    from peelaudit.reports.terminal import comparison as page

    return page.render(comparison, width=width, colour=colour, encoding=encoding)


def render_fix(found: Fix, *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """What was mended, and what that gained, as text ending in a newline."""
    from peelaudit.reports.terminal import fix as page

    return page.render(found, width=width, colour=colour, encoding=encoding)


def render_difference(found: Difference, *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """What is otherwise in one checkpoint than in another as text, ending in a newline."""
    from peelaudit.reports.terminal import difference as page

    return page.render(found, width=width, colour=colour, encoding=encoding)


def render_budget(found: Budget, *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """How many bits each part of a network is given, and what that costs, as text ending in a newline."""
    from peelaudit.reports.terminal import budget as page

    return page.render(found, width=width, colour=colour, encoding=encoding)


def render_tasks(rows: Sequence[TaskRow], *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """What became of a batch's checkpoints, as text ending in a newline."""
    from peelaudit.reports.terminal import tasks as page

    return page.render(rows, width=width, colour=colour, encoding=encoding)


def render_selftest(result: Selftest, *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """What the audit made of planted faults, as text ending in a newline."""
    from peelaudit.reports.terminal import selftest as page

    return page.render(result, width=width, colour=colour, encoding=encoding)
