"""The directory of results: shared by several runs, shards and machines, and sound after kill -9 at any moment.

    peelaudit-results.json      what the directory is
    tasks/<key>/claim           locked by the process that audits; the lock goes when that process does
    tasks/<key>/report.json     the report
    tasks/<key>/done.json       the marker, written last: the report's hash
    rows/<id>.json              what became of a checkpoint's path, done or failed
    plans/<shard>.json          which checkpoints the latest run of a shard found
    journal.jsonl               a line as each audit begins and ends

A task is done if its marker names the report's hash and the report is about the very content, data and settings of the
key. All else is no result: it is found out, and the audit is done again. Every file is written under another name,
synced and renamed; the claim is a lock on an open file (flock), so that a dead owner's is free at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peelaudit.errors import ConfigError, OutputError, PeelauditError, ReportError
from peelaudit.fleet.finding import RESULTS_FILE
from peelaudit.fleet.identity import key_of_report
from peelaudit.records import AuditReport, TaskRow
from peelaudit.records.json import dump, export, load, parse_report
from peelaudit.reports.writing import write_whole

__all__ = ["Claim", "Results"]

_LAYOUT = 1


@dataclass(frozen=True, slots=True)
class _Description:
    """The content of `peelaudit-results.json`."""

    layout: int


@dataclass(frozen=True, slots=True)
class _Marker:
    """The content of `done.json`."""

    key: str
    report_sha256: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Who audits: the content of `claim`, of meaning only while that file is locked. `checkpoint` is absolute."""

    checkpoint: str
    host: str
    pid: int


class Results:
    """A directory of results.

    Args:
        root: made by `create`, or by an earlier run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def create(cls, root: Path) -> Results:
        """The directory, made if it isn't there.

        Raises:
            ConfigError: it holds something else, or results of a layout that this version doesn't know.
            OutputError: it can't be made.
        """
        results = cls(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            foreign = any(not path.name.startswith(".") for path in root.iterdir())
            if foreign and not results.exists():
                raise ConfigError(f"{root} holds other things than results of peelaudit: give an empty directory")
            if not results.exists():
                write_whole(root / RESULTS_FILE, dump(_Description(_LAYOUT), _Description))
            # After the file: where these are, it is too, whichever run makes them and whenever that is killed.
            for name in ("tasks", "rows", "plans"):
                (root / name).mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{root} can't be made: {error.strerror or error}") from error
        results.check()
        return results

    def exists(self) -> bool:
        """Whether it is a directory of results."""
        return (self.root / RESULTS_FILE).is_file()

    def check(self) -> None:
        """Raise ConfigError unless it is a directory of results of this layout."""
        try:
            found: _Description = load((self.root / RESULTS_FILE).read_text("utf-8"), _Description)
        except (OSError, ValueError, ReportError) as error:
            raise ConfigError(f"{self.root} holds no results of peelaudit batch") from error
        if found.layout != _LAYOUT:
            raise ConfigError(f"{self.root} has layout {found.layout}: this peelaudit knows {_LAYOUT}")

    # -- one task ------------------------------------------------------------------------------------------------------

    def report_path(self, key: str) -> Path:
        """The report's file."""
        return self._task(key) / "report.json"

    @contextlib.contextmanager
    def claimed(self, key: str, checkpoint: str, *, wait: bool) -> Iterator[bool]:
        """Hold the task's claim; False if another process holds it and `wait` is False."""
        self._task(key).mkdir(parents=True, exist_ok=True)
        handle = os.open(self._task(key) / "claim", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not _lock(handle, wait=wait):
                yield False
                return
            claim = Claim(os.path.abspath(checkpoint), socket.gethostname(), os.getpid())  # noqa: PTH100  # not resolved
            os.truncate(handle, 0)
            os.pwrite(handle, dump(claim, Claim).encode(), 0)
            self._sweep(key)
            yield True
        finally:
            os.close(handle)

    def _sweep(self, key: str) -> None:
        """Remove what a killed owner of the claim was writing."""
        for left in self._task(key).glob(".*.tmp"):
            left.unlink(missing_ok=True)

    def find(self, key: str) -> AuditReport | None:
        """The task's report, if it is done. What is damaged or not this task's is none, and loses its marker.

        Raises:
            OSError: the directory can't be read.
        """
        marker = self._task(key) / "done.json"
        try:
            return _read_entry(marker, self.report_path(key), key)
        except FileNotFoundError:
            return None
        except ReportError as error:
            self.note("discarded", key, reason=str(error))
            marker.unlink(missing_ok=True)
            return None

    def publish(self, key: str, report: AuditReport) -> None:
        """Write the report, then its marker. To be called with the claim held.

        Raises:
            NonFiniteResult: a figure is NaN or infinite.
            OutputError: the disk is full, and so on.
        """
        text = export(report)
        write_whole(self.report_path(key), text)
        marker = _Marker(key, hashlib.sha256(text.encode()).hexdigest())
        write_whole(self._task(key) / "done.json", dump(marker, _Marker))

    def claims(self) -> Iterator[Claim]:
        """Who is at work."""
        for path in sorted((self.root / "tasks").glob("*/claim")):
            with contextlib.suppress(OSError, ReportError, UnicodeDecodeError):
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if not _lock(handle, wait=False, shared=True):
                        yield load(path.read_text("utf-8"), Claim)
                finally:
                    os.close(handle)

    def _task(self, key: str) -> Path:
        return self.root / "tasks" / key

    # -- all of them ---------------------------------------------------------------------------------------------------

    def note(self, event: str, key: str, **facts: object) -> None:
        """Add a line to the journal, in one write.

        Raises:
            OutputError: the disk is full, and so on.
        """
        who = {"time": round(time.time(), 3), "event": event, "task": key, "host": socket.gethostname()}
        line = json.dumps({**who, "pid": os.getpid(), **facts}) + "\n"
        path = self.root / "journal.jsonl"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if os.write(handle, line.encode()) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(handle)
        except OSError as error:
            raise OutputError(f"{path} can't be written: {error.strerror or error}") from error

    def record(self, row: TaskRow) -> None:
        """Keep what became of a checkpoint. Raises OutputError."""
        write_whole(self.root / "rows" / f"{_name(row.checkpoint)}.json", dump(row, TaskRow))

    def rows(self) -> tuple[TaskRow, ...]:
        """What became of every checkpoint, in no order. A damaged row is none: it is made anew by the next run."""
        found: list[TaskRow] = []
        for path in (self.root / "rows").glob("[!.]*.json"):
            with contextlib.suppress(OSError, ReportError, UnicodeDecodeError):
                found.append(load(path.read_text("utf-8"), TaskRow))
        return tuple(found)

    def plan(self, shard: str, checkpoints: Sequence[str]) -> None:
        """Keep which checkpoints a run is going to audit. Raises OutputError."""
        write_whole(
            self.root / "plans" / f"{shard.replace('/', '-of-')}.json", dump(tuple(checkpoints), tuple[str, ...])
        )

    def planned(self) -> tuple[str, ...]:
        """The checkpoints that the latest runs were going to audit."""
        found: dict[str, None] = {}
        for path in sorted((self.root / "plans").glob("[!.]*.json")):
            with contextlib.suppress(OSError, ReportError, UnicodeDecodeError):
                found |= dict.fromkeys(load(path.read_text("utf-8"), tuple[str, ...]))
        return tuple(found)


def _name(checkpoint: str) -> str:
    """A file name for a checkpoint's path."""
    return hashlib.sha256(os.fsencode(os.path.abspath(checkpoint))).hexdigest()[:32]  # noqa: PTH100  # not resolved


def _lock(handle: int, *, wait: bool, shared: bool = False) -> bool:
    """Lock an open file until it is closed; False if another has it and `wait` is False."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _read_entry(marker: Path, report: Path, key: str) -> AuditReport:
    """The report behind a marker.

    Raises:
        FileNotFoundError: there is no marker.
        ReportError: the entry is damaged, or another task's.
    """
    try:
        told: _Marker = load(marker.read_text("utf-8"), _Marker)
        data = report.read_bytes() if report.exists() else b""
        if told.key != key or hashlib.sha256(data).hexdigest() != told.report_sha256:
            raise ReportError("the report isn't the one that its marker names")
        found = parse_report(data.decode("utf-8"))
        if key_of_report(found) != key:
            raise ReportError("the report is another task's")
    except (UnicodeDecodeError, TypeError, PeelauditError) as error:
        raise ReportError(str(error)) from error
    return found
