"""One audit's place in a directory of results: the report under a readable name, and the marker that vouches for it."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from peelaudit.auditing.identity import key_of_report
from peelaudit.errors import PeelauditError, ReportError
from peelaudit.plain_files import read_plain
from peelaudit.records import AuditReport
from peelaudit.records.json import dump, load, parse_report

__all__ = ["REPORTS", "Entry", "Marker", "key_suffix", "read_entry", "read_marker", "report_file"]

REPORTS = "reports"
"""The directory of the reports, within that of the results."""

_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Marker:
    """The content of `done.json`: `report` is the report's file, relative to the directory of results."""

    key: str
    report: str
    report_sha256: str

    @classmethod
    def of(cls, key: str, report: str, text: str) -> Marker:
        """The marker of a report's text."""
        return cls(key, report, hashlib.sha256(text.encode()).hexdigest())

    def text(self) -> str:
        """Its JSON."""
        return dump(self, Marker)


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished audit: its report, and the report's file, relative to the directory of results."""

    report: AuditReport
    file: str


def report_file(checkpoint: str, key: str) -> str:
    """A report's file, relative to the directory of results.

    It is called after the end of the checkpoint's path, with the beginning of the task's key behind it. The last two
    names tell `run/ckpt-600.pt` and `run/checkpoint-600` from another run's; the key keeps those apart that have both
    in common, such as one checkpoint under two settings.
    """
    path = Path(os.path.abspath(checkpoint))  # noqa: PTH100  # not resolved: as the user names it
    words = "-".join(part for part in (path.parent.name, path.stem if path.is_file() else path.name) if part)
    safe = re.sub(r"[^A-Za-z0-9._=+-]+", "_", words)[-_LONGEST_NAME:].lstrip(".-")
    return f"{REPORTS}/{safe or 'checkpoint'}{key_suffix(key)}"


def key_suffix(key: str) -> str:
    """The end of a report's file name: a piece of the key, of which two tasks of one directory never share so much."""
    return f"-{key[:12]}.json"


def read_marker(path: Path) -> Marker:
    """A marker.

    Raises:
        FileNotFoundError: there is none.
        ReportError: it is damaged, or names a file elsewhere.
    """
    try:
        found: Marker = load(read_plain(path).decode("utf-8"), Marker)
    except UnicodeDecodeError as error:
        raise ReportError(str(error)) from error
    parts = PurePosixPath(found.report).parts
    if len(parts) != 2 or parts[0] != REPORTS or parts[1] == "..":
        raise ReportError("the report isn't in the directory of results")
    return found


def read_entry(marker: Path, root: Path, key: str) -> Entry:
    """The report behind a marker, in the directory of results `root`.

    Raises:
        FileNotFoundError: there is no marker.
        ReportError: the entry is damaged, or another task's.
    """
    told = read_marker(marker)
    try:
        path = root / told.report
        data = read_plain(path) if path.is_file() else b""
        if told.key != key or hashlib.sha256(data).hexdigest() != told.report_sha256:
            raise ReportError("the report isn't the one that its marker names")
        found = parse_report(data.decode("utf-8"))
        if key_of_report(found) != key:
            raise ReportError("the report is another task's")
    except (UnicodeDecodeError, TypeError, PeelauditError) as error:
        raise ReportError(str(error)) from error
    return Entry(found, told.report)
