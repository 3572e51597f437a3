"""What is written about the checkpoints of a results directory together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from peelaudit.exports.csv import networks
from peelaudit.exports.files import write_whole
from peelaudit.records import AuditReport

__all__ = ["write_series"]


def write_series(directory: Path, reports: Iterable[AuditReport]) -> None:
    """Write `summary.csv`: a line a report, its network's figures, in the order given.

    Raises:
        OutputError: the disk is full, and so on.
    """
    write_whole(directory / "summary.csv", networks(reports))
