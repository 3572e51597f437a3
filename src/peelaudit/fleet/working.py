"""One checkpoint from path to published report, in whichever process and on whichever machine it falls to."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peelaudit.auditing.caching import Cache, Resumption
from peelaudit.errors import PeelauditError, is_out_of_memory
from peelaudit.fleet.entries import Entry
from peelaudit.fleet.results import Results
from peelaudit.records import TaskFigures, TaskRow, TaskState
from peelaudit.settings.audit import AuditConfig

__all__ = ["Task", "failed", "perform"]

_TRANSIENT = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "ECONNRESET", "ENOTCONN", "EREMOTEIO", "ENOLINK")
    if hasattr(errno, name)
)
"""What a disk or a network that fails for a while answers. A missing file, a full disk or a refusal stays as it is."""

_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Task:
    """One checkpoint to audit.

    `results` is the directory of results. `threads` are those that it computes with. `retries` is how often it is
    begun again after an I/O error. With `wait` it waits while another process audits the same. `cache` is where it
    keeps what it has found, to go on if it is killed.
    """

    config: AuditConfig
    results: str
    threads: int
    retries: int = 0
    wait: bool = False
    cache: Cache | None = None


def perform(task: Task) -> TaskRow:
    """Audit the task's checkpoint unless that is done already; what became of it.

    The row is RUNNING if another process is at it (and the task doesn't wait). It never raises an Exception: what goes
    wrong is a FAILED row.
    """
    attempt = 0
    while True:
        try:
            return _perform(task)
        except Exception as error:
            if attempt >= task.retries or not _is_transient(error):
                return _failure(task, error)
        time.sleep(min(0.5 * 2**attempt, _LONGEST_PAUSE_S))
        attempt += 1


def failed(task: Task, reason: str, exit_code: int = 3) -> TaskRow:
    """The row of a task that came to nothing."""
    return TaskRow(task.config.checkpoint, TaskState.FAILED, exit_code=exit_code, reason=reason)


def _perform(task: Task) -> TaskRow:
    from peelaudit.auditing.prepare import prepared
    from peelaudit.auditing.run import audit_prepared  # torch: only where an audit runs

    results, path = Results(Path(task.results)), task.config.checkpoint
    with prepared(task.config) as audit:
        key = audit.key
        with results.claimed(key, path, wait=task.wait) as mine:
            if not mine:
                return TaskRow(path, TaskState.RUNNING, reason="another process audits it")
            if kept := results.find(key):
                return _row(task, TaskState.KEPT, kept)
            results.note("start", key, checkpoint=path)
            resumption = Resumption(task.cache)
            done = results.publish(key, audit_prepared(audit, resumption=resumption))
            resumption.end()
            results.note("finish", key, checkpoint=path)
            return _row(task, TaskState.DONE, done)


def _row(task: Task, state: TaskState, entry: Entry) -> TaskRow:
    path, report, network = task.config.checkpoint, entry.report, entry.report.network
    elsewhere = os.path.abspath(report.checkpoint.path) != os.path.abspath(path)  # noqa: PTH100  # not resolved
    return TaskRow(
        checkpoint=path,
        state=state,
        exit_code=0,
        reason=f"the same content as {report.checkpoint.path}" if elsewhere else None,
        report=entry.file,
        figures=TaskFigures(
            report.checkpoint.training_step,
            network.held_out.trained_loss,
            network.held_out.bound,
            network.gap_layers,
            report.verdict,
            network.margin,
            report.named,
        ),
    )


def _failure(task: Task, error: Exception) -> TaskRow:
    """The row that says why, in the words that `peelaudit run` has for it."""
    if isinstance(error, PeelauditError):
        return failed(task, str(error), error.exit_code)
    if is_out_of_memory(error):
        return failed(task, "not enough memory; fewer --tokens, a shorter --seq-len or fewer --jobs need less")
    if isinstance(error, OSError):
        return failed(task, str(error))
    sys.stderr.write("".join(traceback.format_exception(error)))
    return failed(task, f"a bug in peelaudit, please report it: {type(error).__name__}: {error}")


def _is_transient(error: Exception) -> bool:
    """Whether it comes from an I/O error that may be over soon."""
    return any(isinstance(link, OSError) and link.errno in _TRANSIENT for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, also where a message was put in its place (`from None`)."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
