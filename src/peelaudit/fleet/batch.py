"""A batch from its checkpoints to its rows: which are this shard's, where they run, what is kept of each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from peelaudit.auditing.caching import Cache
from peelaudit.errors import AuditError, OutputError
from peelaudit.fleet.results import Results
from peelaudit.fleet.series import write_series
from peelaudit.fleet.sharding import Shard
from peelaudit.fleet.working import Task
from peelaudit.records import AuditReport, TaskRow, TaskState
from peelaudit.records.json import read_report
from peelaudit.reports.trajectory import Trajectory
from peelaudit.settings.audit import AuditConfig

__all__ = ["Batch", "Engine", "Summary", "carry_out", "run_batch", "settle"]


class Engine(StrEnum):
    """Where audits run."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What to audit, and how.

    Attributes:
        checkpoints: this shard's, in their order.
        settings: of every audit; its checkpoint is of no meaning.
        results: the directory of results.
        shard: which part of all that were found these are.
        engine: where audits run.
        jobs: how many at a time at most; None is one a CUDA device, else one, and with Ray what the cluster has room
            for.
        threads: what each computes with. The last digits of a figure may depend on it.
        retries: how often an audit is begun again after an I/O error.
        devices: the CUDA devices to share out, local ones.
        gpus_per_task: Ray's share of a GPU for each.
        cache: where an audit that is killed goes on from; nowhere if None.
    """

    checkpoints: tuple[str, ...]
    settings: AuditConfig
    results: Results
    shard: Shard
    engine: Engine
    jobs: int | None
    threads: int
    retries: int
    devices: tuple[str, ...]
    gpus_per_task: float
    cache: Cache | None = None


def run_batch(batch: Batch) -> Generator[TaskRow, None, None]:
    """Audit what isn't done; a row for each checkpoint as it ends. Closing the iterator stops what runs.

    A RUNNING row comes where the local engine begins an audit, and another with a reason where it has to wait for
    another process's. Ray doesn't say when it begins.

    Raises:
        ConfigError: the engine isn't installed.
        OutputError: a row couldn't be kept; raised once all audits are over.
    """
    batch.results.plan(str(batch.shard), batch.checkpoints)
    yield from carry_out(batch)


def carry_out(batch: Batch, *, before: Callable[[TaskRow], None] | None = None) -> Generator[TaskRow, None, None]:
    """`run_batch` without a plan of its own. `before` is called with each row before it is kept."""
    failures: list[OutputError] = []
    with closing(_rows(batch)) as rows:
        for row in rows:
            if row.state is TaskState.RUNNING:
                yield row
                continue
            try:
                if before is not None:
                    before(row)
                batch.results.record(replace(row, state=TaskState.DONE) if row.state is TaskState.KEPT else row)
            except OutputError as error:
                failures.append(error)
            yield row
    if failures:
        raise failures[0]


def _rows(batch: Batch) -> Generator[TaskRow, None, None]:
    # Imported here: `status` and a library's user need neither engine.
    tasks = [
        Task(
            replace(batch.settings, checkpoint=path),
            str(batch.results.root),
            batch.threads,
            batch.retries,
            cache=batch.cache,
        )
        for path in batch.checkpoints
    ]
    match batch.engine:
        case Engine.LOCAL:
            from peelaudit.fleet.processes import run_locally

            return run_locally(tasks, jobs=batch.jobs or len(batch.devices) or 1, devices=batch.devices)
        case Engine.RAY:
            from peelaudit.fleet.clusters import run_on_ray

            return run_on_ray(tasks, jobs=batch.jobs, gpus_per_task=batch.gpus_per_task)
        case _:
            assert_never(batch.engine)


class Summary:
    """What the directory's done audits say together, those of other runs and shards too. Each report is read once.

    Args:
        results: the directory.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self._read: dict[Path, AuditReport] = {}

    def write(self) -> Trajectory | str:
        """Write it (`peelaudit.fleet.series`).

        Returns:
            Their trajectory, or why they have none.

        Raises:
            ReportError: a report was damaged meanwhile.
            OutputError: the disk is full, and so on.
        """
        audited = [(name, self._read_once(path)) for name, path in self._results.audited()]
        return write_series(self._results.root, audited)

    def report(self, row: TaskRow) -> AuditReport:
        """The report of a row that has one. Raises ReportError."""
        return self._read_once(self._results.root / (row.report or ""))

    def _read_once(self, path: Path) -> AuditReport:
        if path not in self._read:
            self._read[path] = read_report(path)
        return self._read[path]


def settle(rows: Sequence[TaskRow]) -> None:
    """Raise what a batch with these rows ends in, whatever each one's own code: 3 if one could not be audited.

    Raises:
        AuditError: some could not be audited.
    """
    bad = sum(row.state is TaskState.FAILED for row in rows)
    if bad:
        raise AuditError(f"{bad} of {len(rows)} checkpoints could not be audited")
