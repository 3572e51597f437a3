"""All that is wrong with a series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peelaudit.records import AuditReport
from peelaudit.reports.integrity.contents import misnamed, same_weights, shared_layers
from peelaudit.reports.integrity.course import astray
from peelaudit.reports.integrity.finding import Finding, Step, number_in

__all__ = ["find_defects"]


def find_defects(series: Sequence[Step], given: Iterable[AuditReport], *, tolerance: float) -> tuple[Finding, ...]:
    """What is wrong with a training run.

    Args:
        series: its steps, ascending, each content once.
        given: every report, those of copies under other names included.
        tolerance: nats/token that count as nothing.
    """
    everything = sorted(given, key=lambda report: (number_in(report.checkpoint.path) or 0, report.checkpoint.path))
    return (*same_weights(everything), *misnamed(everything), *shared_layers(series), *astray(series, tolerance))
