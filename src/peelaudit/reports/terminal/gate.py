"""What a gate says of a report: what failed first, what passed in a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.escape import printable
from peelaudit.records import GateCheck, Outcome
from peelaudit.reports.terminal.page import draw, heading, prose, table
from peelaudit.reports.wording.text import abbreviate, count, interval, signed

__all__ = ["parts", "render"]

_SIGNS: dict[Outcome, tuple[str, str]] = {
    Outcome.FAILED: ("✗", "bold red"),
    Outcome.INCONCLUSIVE: ("?", "yellow"),
    Outcome.SUPPRESSED: ("~", "bright_black"),
    Outcome.PASSED: ("✓", "green"),
}
_ROWS = 100
_RULE = 60
_REASONS = 5


def render(checks: Sequence[GateCheck], *, title: str, width: int, colour: bool, encoding: str) -> str:
    """The checks as text; see `peelaudit.reports.terminal.render_gate`."""
    return draw(parts(checks, title=title), width=width, colour=colour, encoding=encoding)


def parts(checks: Sequence[GateCheck], *, title: str = "The gate") -> Iterator[RenderableType]:
    """The section's pieces. Suppressed checks are among those that didn't pass."""
    failing = sum(check.fails for check in checks)
    verdict = ("failed", "bold red") if failing else ("passed", "green")
    yield heading(printable(title))
    yield prose(verdict, f": {count(failing)} of {count(len(checks))} checks fail")
    open_checks = [check for check in checks if check.outcome is not Outcome.PASSED]
    if open_checks:
        yield _rows(open_checks[:_ROWS])
        if len(open_checks) > _ROWS:
            yield prose(f"and {count(len(open_checks) - _ROWS)} more that didn't pass")
    yield from _passed(checks)
    yield from _reasons(open_checks)


def _rows(checks: Sequence[GateCheck]) -> Table:
    grid = table()
    grid.add_column("outcome", no_wrap=True)
    grid.add_column("rule", overflow="fold", min_width=16)
    grid.add_column("row", no_wrap=True)
    for name in ("figure", "95 %", "limit"):
        grid.add_column(name, justify="right", no_wrap=True, min_width=6)
    for check in checks:
        sign, style = _SIGNS[check.outcome]
        word = f"{sign} {check.outcome}" + (", fails" if check.fails and check.outcome is not Outcome.FAILED else "")
        figure = check.figure
        grid.add_row(
            Text(word, "bold red" if check.fails else style),
            abbreviate(printable(check.rule), _RULE),
            "network" if check.layer is None else f"layer {check.layer}",
            signed(figure.value) if figure else "",
            interval(figure, sign=True) if figure else "",
            "" if check.limit is None else f"{check.limit:.4g}",
        )
    return grid


def _passed(checks: Sequence[GateCheck]) -> Iterator[RenderableType]:
    passed = Counter(check.rule for check in checks if check.outcome is Outcome.PASSED)
    for rule, rows in passed.items():
        where = f" on {count(rows)} rows" if rows > 1 else ""
        yield prose((f"{_SIGNS[Outcome.PASSED][0]} passed", "green"), f" {rule}{where}")


def _reasons(checks: Sequence[GateCheck]) -> Iterator[RenderableType]:
    """Why, in sentences, of the first few; and of every one that is suppressed, for its excuse."""
    told = [check for index, check in enumerate(checks) if index < _REASONS or check.outcome is Outcome.SUPPRESSED]
    if told:
        yield Text("")
    for check in told:
        sign, style = _SIGNS[check.outcome]
        yield prose((f"{sign} ", style), check.reason)
