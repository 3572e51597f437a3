"""How far a directory of results is, told by what lies in it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from peelaudit.fleet.finding import natural
from peelaudit.fleet.results import Results, place
from peelaudit.records import TaskRow, TaskState

__all__ = ["read_status"]


def read_status(results: Results) -> tuple[TaskRow, ...]:
    """A row for every checkpoint that a run has found or looked at, in natural order.

    A done one whose report is gone is pending again. What is neither done, failed nor running is pending.
    """
    rows = {place(path): TaskRow(path, TaskState.PENDING) for path in results.planned()}
    vouched = results.vouched()
    for row in results.rows():
        rows[place(row.checkpoint)] = _seen(row, vouched)
    for claim in results.claims():
        known = rows.get(claim.checkpoint)
        path = known.checkpoint if known else claim.checkpoint
        rows[claim.checkpoint] = TaskRow(path, TaskState.RUNNING, reason=f"by process {claim.pid} on {claim.host}")
    return tuple(sorted(rows.values(), key=lambda row: natural(row.checkpoint)))


def _seen(row: TaskRow, vouched: Collection[str]) -> TaskRow:
    if row.report is None or row.report in vouched:
        return row
    return replace(TaskRow(row.checkpoint, TaskState.PENDING), reason="its report was removed")
