"""What is written about the checkpoints of a results directory together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peelaudit.errors import ConfigError
from peelaudit.records import AuditReport
from peelaudit.reports.formats import Format, export
from peelaudit.reports.formats.cloud import cloud_svg
from peelaudit.reports.formats.csv import networks
from peelaudit.reports.trajectory import Trajectory, trace
from peelaudit.reports.writing import write_whole

__all__ = ["write_series"]


def write_series(directory: Path, reports: Sequence[AuditReport]) -> Trajectory | str:
    """Write `summary.csv`, a line a report in the order given; for one training run, `series.html` and `cloud.svg` too.

    Returns:
        The trajectory, or why the reports have none; then the pictures that an earlier run left are removed.

    Raises:
        OutputError: the disk is full, and so on.
    """
    write_whole(directory / "summary.csv", networks(reports))
    page, cloud = directory / "series.html", directory / "cloud.svg"
    try:
        trajectory = trace(reports)
    except ConfigError as error:
        page.unlink(missing_ok=True)
        cloud.unlink(missing_ok=True)
        return "; ".join(error.problems)
    write_whole(cloud, cloud_svg(trajectory.held_out))
    write_whole(page, export(trajectory.reports, Format.HTML))
    return trajectory
