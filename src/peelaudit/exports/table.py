"""The terminal's table as a text file: 100 columns, without colour."""

from __future__ import annotations

from peelaudit.exports.shapes import check_finite
from peelaudit.records import AuditReport
from peelaudit.render import render_report

__all__ = ["export"]


def export(report: AuditReport) -> str:
    """The report as plain text (UTF-8).

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    check_finite(report)
    return render_report(report, width=100)
