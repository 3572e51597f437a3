"""Which saved reports a command was given: files, or a batch's directory of results for all of its reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peelaudit.cli.guard import say
from peelaudit.errors import ReportError

__all__ = ["report_paths"]


def report_paths(given: Sequence[str], *, quiet: bool = False) -> tuple[str, ...]:
    """The reports' files; a batch's in the batch's order. Of its checkpoints without a report it warns.

    Raises:
        ConfigError: a directory holds no results.
        ReportError: it holds no report.
    """
    return tuple(path for each in given for path in (_of_batch(each, quiet=quiet) if Path(each).is_dir() else (each,)))


def _of_batch(directory: str, *, quiet: bool) -> tuple[str, ...]:
    from peelaudit.fleet.results import Results
    from peelaudit.fleet.status import read_status

    results = Results(Path(directory))
    results.check()
    found = results.reports()
    rows = read_status(results)
    missing = sum(row.report is None for row in rows)
    if not found:
        of_how_many = f"of {len(rows)} checkpoint{'' if len(rows) == 1 else 's'}"
        raise ReportError(f"{directory} holds no report yet, {of_how_many}: see peelaudit status")
    if missing and not quiet:
        say(f"warning: {directory} has no report of {missing} among {len(rows)} checkpoints: see peelaudit status")
    return tuple(map(str, found))
