"""Checkpoints audited as they appear below a directory, each once, as a batch audits them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace

from peelaudit.errors import ConfigError, ReportError
from peelaudit.fleet.batch import Batch, carry_out
from peelaudit.fleet.finding import find_checkpoints
from peelaudit.fleet.results import Results, place
from peelaudit.fleet.stillness import Stillness
from peelaudit.records import TaskRow, TaskState
from peelaudit.records.json import read_report
from peelaudit.reports.trajectory import order

__all__ = ["Watch", "run_watch"]

_MOST_PAUSE_S = 2.0
_LOOKS = 5
"""How often a checkpoint is looked at while it settles, pauses permitting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What to watch.

    Attributes:
        directory: below which checkpoints appear.
        settle_s: for how long a checkpoint's files must lie still before it is tried.
        idle_s: after how long without any change to end; None to go on until told to end.
        clock: seconds that only rise.
        pause: waits so many seconds.
    """

    directory: str
    settle_s: float
    idle_s: float | None = None
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


def run_watch(batch: Batch, watch: Watch) -> Generator[TaskRow, None, None]:
    """Audit what appears; rows as `run_batch` has them. Closing the iterator stops what runs.

    `batch` says how; its checkpoints are of no meaning. A checkpoint's row comes once for each of its contents, FAILED
    once it has lain still after that. A row that is of another content than an earlier one of the same path, such as a
    `ckpt.pt` that is written over at each step, doesn't take that one's place in the series.

    Raises:
        ConfigError: the engine isn't installed.
        OutputError: a row couldn't be kept.
    """
    still, told, planned = Stillness(watch.settle_s), _Told(batch.results), set[str]()
    since = watch.clock()
    while True:
        found = find_checkpoints([watch.directory], stdin=io.BytesIO()).checkpoints
        now = watch.clock()
        since = now if still.look(found, now) else since
        yield from still.lost(now)
        if ready := still.ready(now):
            planned |= set(found)
            batch.results.plan(str(batch.shard), [*sorted(planned - set(found)), *found])
            still.tried(ready)
            with closing(carry_out(replace(batch, checkpoints=ready), before=told.retire)) as rows:
                for row in rows:
                    if row.state is TaskState.FAILED:
                        still.failed(row, watch.clock())
                    elif row.state is TaskState.RUNNING or told.is_new(row):
                        yield row
            since = watch.clock()
            continue
        if watch.idle_s is not None and not still.waiting() and now - since >= watch.idle_s:
            return
        watch.pause(min(watch.settle_s / _LOOKS, _MOST_PAUSE_S))


class _Told:
    """Which rows there were, by path."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._rows = {place(row.checkpoint): row for row in results.rows() if row.report is not None}
        self._told: dict[str, str] = {}

    def is_new(self, row: TaskRow) -> bool:
        """Whether no row of this content was told for this path."""
        known = self._told.get(row.checkpoint)
        self._told[row.checkpoint] = row.report or ""
        return known != row.report

    def retire(self, row: TaskRow) -> None:
        """Keep the row that this one replaces, if both are steps of one run. Raises OutputError."""
        former = self._rows.get(place(row.checkpoint))
        if row.report is None:
            return
        self._rows[place(row.checkpoint)] = row
        if former is not None and former.report != row.report and self._is_one_run(former, row):
            self._results.retire(former)

    def _is_one_run(self, former: TaskRow, row: TaskRow) -> bool:
        try:
            order([read_report(self._results.root / each.report) for each in (former, row) if each.report is not None])
        except (ConfigError, ReportError):
            return False
        return True
