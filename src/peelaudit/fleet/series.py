"""What is written about the checkpoints of a results directory together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peelaudit.errors import ConfigError
from peelaudit.fleet.results import place
from peelaudit.records import AuditReport
from peelaudit.reports.formats import Format, export
from peelaudit.reports.formats.cloud import cloud_svg
from peelaudit.reports.formats.csv import networks
from peelaudit.reports.trajectory import Trajectory, trace
from peelaudit.reports.writing import write_whole

__all__ = ["write_series"]


def write_series(directory: Path, audited: Sequence[tuple[str, AuditReport]]) -> Trajectory | str:
    """Write `summary.csv`, a line a report in the order given; for one training run, `series.html` and `cloud.svg` too.

    Args:
        directory: of the results.
        audited: checkpoints with their reports, which copies share.

    Returns:
        The trajectory, or why the reports have none; then the pictures that an earlier run left are removed.

    Raises:
        OutputError: the disk is full, and so on.
    """
    write_whole(directory / "summary.csv", networks(list({id(report): report for _, report in audited}.values())))
    reports = [_called(path, report) for path, report in audited]
    page, cloud = directory / "series.html", directory / "cloud.svg"
    try:
        trajectory = trace(reports)
    except ConfigError as error:
        page.unlink(missing_ok=True)
        cloud.unlink(missing_ok=True)
        return "; ".join(error.problems)
    write_whole(cloud, cloud_svg(trajectory.held_out))
    write_whole(page, export(reports, Format.HTML))
    return trajectory


def _called(path: str, report: AuditReport) -> AuditReport:
    """The report as that of this checkpoint, if it was made of a copy: a copy is a step of its own by its name."""
    if place(report.checkpoint.path) == place(path):
        return report
    return replace(report, checkpoint=replace(report.checkpoint, path=path))
