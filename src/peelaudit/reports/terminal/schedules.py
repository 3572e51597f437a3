"""The schedules that were run, the best first, and the YES bounds by number of waypoints."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.escape import printable
from peelaudit.records import AuditReport, ScheduleResult
from peelaudit.reports.terminal.page import heading, prose, table
from peelaudit.reports.wording.text import abbreviate, count, flow, interval, number, targets_text

__all__ = ["listed", "parts", "short_name"]

_LISTED = 12
_YES_LISTED = 9


def parts(report: AuditReport, width: int) -> Iterator[RenderableType]:
    """The section's pieces."""
    yield heading("The references: which state each block was fitted to (22×3: three blocks to state 22)")
    yield _rows(report, width)
    yield prose((_search_words(report), "dim"))
    if report.yes:
        yield Text("")
        yield from map(Text, _yes_lines(report, width))


def listed(report: AuditReport) -> tuple[tuple[int, ScheduleResult], ...]:
    """The best schedules on *select* with their numbers (their place in the JSON report, from 1), best first."""
    ranked = sorted(enumerate(report.schedules, 1), key=lambda item: item[1].select.bound.value)
    return tuple(ranked[:_LISTED])


def short_name(report: AuditReport, name: str, width: int) -> str:
    """A schedule's name, or its number (`#7`) where the name takes more than `width` characters."""
    text = printable(name)
    if len(text) <= width:
        return text
    numbers = {schedule.name: index for index, schedule in enumerate(report.schedules, 1)}
    return f"#{numbers[name]}" if name in numbers else abbreviate(text, width)


def _rows(report: AuditReport, width: int) -> Table:
    grid = table()
    name_width, targets_width = (16, 20) if width < 100 else (24, 30)
    grid.add_column("#", justify="right", no_wrap=True)
    grid.add_column("schedule", no_wrap=True)
    grid.add_column("fitted to", no_wrap=True)
    for name in ("select", "held-out", "95 %", "fit"):
        grid.add_column(name, justify="right", no_wrap=True, min_width=6)
    for index, schedule in listed(report):
        held_out = schedule.held_out.bound
        grid.add_row(
            str(index),
            abbreviate(printable(schedule.name), name_width),
            targets_text(schedule.targets, targets_width),
            number(schedule.select.bound.value),
            number(held_out.value),
            interval(held_out),
            number(schedule.fit.bound.value),
        )
    return grid


def _search_words(report: AuditReport) -> str:
    search, more = report.search, len(report.schedules) - _LISTED
    words = f"Best first, chosen on select. {count(search.run)} run, {count(search.searched)} searched by estimate"
    words += f", {_possible(search.possible)} possible."
    return words + (f" {count(more)} more are in the JSON report." if more > 0 else "")


def _possible(number_of: int) -> str:
    return (
        count(number_of) if number_of < 10**9 else f"{float(number_of):.0e}" if number_of < 10**300 else "over 1e+300"
    )


def _yes_lines(report: AuditReport, width: int) -> list[str]:
    """YES-k with the schedule behind each: the first few and the last."""
    bounds = [*report.yes[: _YES_LISTED - 1], *report.yes[_YES_LISTED - 1 :][-1:]]
    items = [
        f"YES-{yes.waypoints} {number(yes.held_out.value)} ({short_name(report, yes.schedule, 12)})" for yes in bounds
    ]
    if len(report.yes) > len(bounds):
        items.insert(-1, "…")
    return ["YES-k, the best reference with at most k waypoints, held-out:", *flow(items, width)]
