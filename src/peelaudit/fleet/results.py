"""The directory of results: shared by several runs, shards and machines, and sound after kill -9 at any moment.

    peelaudit-results.json      what the directory is
    reports/<name>-<key>.json   the reports: the end of the checkpoint's path, and the beginning of the task's key
    tasks/<key>/claim           locked by the process that audits; the lock goes when that process does
    tasks/<key>/done.json       the marker, written last: the report's file and its hash
    rows/<id>.json              what became of a checkpoint's path, done or failed
    rows/<id>-<id>.json         what became of it before it was written over, by a training run that is watched
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
from itertools import zip_longest
from pathlib import Path

from peelaudit.errors import ConfigError, OutputError, ReportError
from peelaudit.fleet.entries import REPORTS, Entry, Marker, key_suffix, read_entry, read_marker, report_file
from peelaudit.fleet.finding import RESULTS_FILE, natural
from peelaudit.plain_files import read_plain
from peelaudit.records import AuditReport, TaskRow
from peelaudit.records.json import dump, export, load
from peelaudit.reports.writing import write_whole

__all__ = ["Claim", "Results", "place"]

_LAYOUT = 2


@dataclass(frozen=True, slots=True)
class _Description:
    """The content of `peelaudit-results.json`."""

    layout: int


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
            for name in (REPORTS, "tasks", "rows", "plans"):
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
            found: _Description = load(read_plain(self.root / RESULTS_FILE).decode("utf-8"), _Description)
        except (OSError, ValueError, ReportError) as error:
            raise ConfigError(f"{self.root} holds no results of peelaudit batch") from error
        if found.layout != _LAYOUT:
            raise ConfigError(f"{self.root} has layout {found.layout}: this peelaudit knows {_LAYOUT}")

    # -- one task ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claimed(self, key: str, checkpoint: str, *, wait: bool) -> Iterator[bool]:
        """Hold the task's claim; False if another process holds it and `wait` is False."""
        self._task(key).mkdir(parents=True, exist_ok=True)
        handle = os.open(self._task(key) / "claim", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not _lock(handle, wait=wait):
                yield False
                return
            claim = Claim(place(checkpoint), socket.gethostname(), os.getpid())
            os.truncate(handle, 0)
            os.pwrite(handle, dump(claim, Claim).encode(), 0)
            self._sweep(key)
            yield True
        finally:
            os.close(handle)

    def _sweep(self, key: str) -> None:
        """Remove what a killed owner of the claim was writing."""
        for left in (*self._task(key).glob(".*.tmp"), *self._reports.glob(f".*{key_suffix(key)}.*.tmp")):
            left.unlink(missing_ok=True)

    def find(self, key: str) -> Entry | None:
        """The task's entry, if it is done. What is damaged or not this task's is none, and loses its marker.

        Raises:
            OSError: the directory can't be read.
        """
        marker = self._task(key) / "done.json"
        try:
            return read_entry(marker, self.root, key)
        except FileNotFoundError:
            return None
        except ReportError as error:
            self.note("discarded", key, reason=str(error))
            marker.unlink(missing_ok=True)
            return None

    def publish(self, key: str, report: AuditReport) -> Entry:
        """Write the report, then its marker. To be called with the claim held.

        Raises:
            NonFiniteResult: a figure is NaN or infinite.
            OutputError: the disk is full, and so on.
        """
        text, name = export(report), report_file(report.checkpoint.path, key)
        for damaged in self._reports.glob(f"*{key_suffix(key)}"):
            damaged.unlink(missing_ok=True)  # of this task, perhaps under another name
        write_whole(self.root / name, text)
        write_whole(self._task(key) / "done.json", Marker.of(key, name, text).text())
        return Entry(report, name)

    def reports(self) -> tuple[Path, ...]:
        """The reports of all done checkpoints, each once, in the batch's order; what no run has planned comes last."""
        return tuple(dict.fromkeys(path for _, path in self.audited()))

    def audited(self) -> tuple[tuple[str, Path], ...]:
        """All done checkpoints with their reports, in that order. Checkpoints of one content have one report."""
        order = {place(path): index for index, path in enumerate(self.planned())}
        known = self.vouched()
        rows = [row for row in self.rows() if row.report in known]
        rows.sort(key=lambda row: (order.get(place(row.checkpoint), len(order)), natural(row.checkpoint)))
        return tuple((row.checkpoint, self.root / row.report) for row in rows if row.report is not None)

    def vouched(self) -> frozenset[str]:
        """The reports that are there and have a marker, as rows name them."""
        found: set[str] = set()
        for path in (self.root / "tasks").glob("*/done.json"):
            with contextlib.suppress(OSError, ReportError):
                name = read_marker(path).report
                if (self.root / name).is_file():
                    found.add(name)
        return frozenset(found)

    def claims(self) -> Iterator[Claim]:
        """Who is at work."""
        for path in sorted((self.root / "tasks").glob("*/claim")):
            with contextlib.suppress(OSError, ReportError, UnicodeDecodeError):
                handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    if not _lock(handle, wait=False, shared=True):
                        yield load(read_plain(path).decode("utf-8"), Claim)
                finally:
                    os.close(handle)

    def _task(self, key: str) -> Path:
        return self.root / "tasks" / key

    @property
    def _reports(self) -> Path:
        return self.root / REPORTS

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

    def retire(self, row: TaskRow) -> None:
        """Keep a row beside the one that takes its place: the checkpoint was written over. Raises OutputError."""
        write_whole(self.root / "rows" / f"{_name(row.checkpoint)}-{_name(row.report or '')}.json", dump(row, TaskRow))

    def rows(self) -> tuple[TaskRow, ...]:
        """What became of every checkpoint; of one that was written over, last what became of it as it is now. A damaged
        row is none: it is made anew by the next run.
        """
        found: list[TaskRow] = []
        for path in sorted((self.root / "rows").glob("[!.]*.json"), key=lambda path: (-len(path.name), path.name)):
            with contextlib.suppress(OSError, ReportError, UnicodeDecodeError):
                found.append(load(read_plain(path).decode("utf-8"), TaskRow))
        return tuple(found)

    def plan(self, shard: str, checkpoints: Sequence[str]) -> None:
        """Keep which checkpoints a run is going to audit. Raises OutputError."""
        write_whole(
            self.root / "plans" / f"{shard.replace('/', '-of-')}.json", dump(tuple(checkpoints), tuple[str, ...])
        )

    def planned(self) -> tuple[str, ...]:
        """The checkpoints that the latest runs were going to audit, in their order."""
        plans: list[tuple[str, ...]] = []
        for path in sorted((self.root / "plans").glob("[!.]*.json"), key=lambda path: natural(str(path))):
            with contextlib.suppress(OSError, ReportError, UnicodeDecodeError):
                plans.append(load(read_plain(path).decode("utf-8"), tuple[str, ...]))
        # Each shard has every N-th: taken in turns, they are in the order in which they were found.
        turns = (path for turn in zip_longest(*plans) for path in turn if path is not None)
        return tuple(dict.fromkeys(turns))


def place(checkpoint: str) -> str:
    """Which checkpoint a path means, wherever the command was given."""
    return os.path.abspath(checkpoint)  # noqa: PTH100  # not resolved: as claims have it


def _name(checkpoint: str) -> str:
    """A file name for a checkpoint's path."""
    return hashlib.sha256(os.fsencode(place(checkpoint))).hexdigest()[:32]


def _lock(handle: int, *, wait: bool, shared: bool = False) -> bool:
    """Lock an open file until it is closed; False if another has it and `wait` is False."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
