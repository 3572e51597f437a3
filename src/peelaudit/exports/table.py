"""The terminal's table as a text file: 100 columns, without colour. Several reports stand below one another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from peelaudit.errors import ConfigError
from peelaudit.exports.results import Results, gravest_first
from peelaudit.records import Outcome
from peelaudit.render import render_report, render_trajectory
from peelaudit.render.escape import printable
from peelaudit.render.text import encodable
from peelaudit.trajectory import trace

__all__ = ["export"]


def export(results: Results, *, width: int = 100, colour: bool = False, encoding: str = "utf-8") -> str:
    """The reports as plain text, and the trajectory where they are one training run's.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    results.check_finite()
    pages = [render_report(report, width=width, colour=colour, encoding=encoding) for report in results.reports]
    if len(pages) > 1:
        with contextlib.suppress(ConfigError):  # checkpoints that have nothing to do with one another
            trajectory = trace(results.reports)
            pages.append(render_trajectory(trajectory, width=width, colour=colour, encoding=encoding))
    if notes := list(_notes(results)):
        pages.append(encodable("\n".join(notes) + "\n", encoding))
    return "\n\n".join(pages)


def _notes(results: Results) -> Iterator[str]:
    """What a gate didn't pass, and what could not be audited: a line each."""
    for check in gravest_first(results.checks):
        if check.outcome is not Outcome.PASSED:
            word = "fails" if check.fails else str(check.outcome)
            yield printable(f"gate: {check.checkpoint}: {check.rule} {word}: {check.reason}")
    for failure in results.failures:
        yield printable(f"not audited: {failure.checkpoint}: {failure.error}: {failure.reason}")
