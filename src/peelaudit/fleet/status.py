"""How far a directory of results is, told by what lies in it."""

from __future__ import annotations

import os
from dataclasses import replace

from peelaudit.fleet.finding import natural
from peelaudit.fleet.results import Results
from peelaudit.records import TaskRow, TaskState

__all__ = ["read_status"]


def read_status(results: Results) -> tuple[TaskRow, ...]:
    """A row for every checkpoint that a run has found or looked at, in natural order.

    A done one whose report is gone is pending again. What is neither done, failed nor running is pending.
    """
    rows = {_place(path): TaskRow(path, TaskState.PENDING) for path in results.planned()}
    for row in results.rows():
        rows[_place(row.checkpoint)] = _seen(results, row)
    for claim in results.claims():
        place = claim.checkpoint
        known = rows.get(place)
        path = known.checkpoint if known else place
        rows[place] = TaskRow(path, TaskState.RUNNING, reason=f"by process {claim.pid} on {claim.host}")
    return tuple(sorted(rows.values(), key=lambda row: natural(row.checkpoint)))


def _seen(results: Results, row: TaskRow) -> TaskRow:
    if row.report is None or (results.root / row.report).with_name("done.json").is_file():
        return row
    return replace(TaskRow(row.checkpoint, TaskState.PENDING), reason="its report was removed")


def _place(checkpoint: str) -> str:
    return os.path.abspath(checkpoint)  # noqa: PTH100  # not resolved: as claims have it
