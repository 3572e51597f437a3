"""The rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peelaudit.records.figures import Estimate, Verdict

__all__ = ["TaskFigures", "TaskRow", "TaskState", "Unaudited"]


@dataclass(frozen=True, slots=True)
class Unaudited:
    """A checkpoint of a batch that has no report: its audit ended in an error.

    `error` is the error's class (`MalformedCheckpoint`), `reason` its sentence.
    """

    checkpoint: str
    error: str
    reason: str


class TaskState(StrEnum):
    """How far a checkpoint of a batch is."""

    DONE = "done"
    """Audited, its report in the results directory."""
    KEPT = "kept"
    """Found done by this run: the same content, data and settings were audited before."""
    FAILED = "failed"
    RUNNING = "running"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """What a table of many audits shows of one: the network's held-out figures, nats/token.

    `gap_layers` is None where no reference is another network. `margin` is how far the nearest peeled reference is
    behind, None where there is none; `named` are the layers to look at.
    """

    training_step: int | None
    trained_loss: Estimate
    bound: Estimate
    gap_layers: Estimate | None
    verdict: Verdict
    margin: Estimate | None = None
    named: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskRow:
    """What became of one checkpoint of a batch.

    `checkpoint` is its path as it was given or found. `exit_code` is what `peelaudit run` returns in such a case, None
    while it isn't over. `reason` is one sentence: why it failed, or whose report was kept. `report` is the report's
    file, relative to the results directory. `notes` says, a sentence each, what is wrong with it as a step of the
    training run that the results directory holds; only `batch` and `watch` know.
    """

    checkpoint: str
    state: TaskState
    exit_code: int | None = None
    reason: str | None = None
    report: str | None = None
    figures: TaskFigures | None = None
    notes: tuple[str, ...] = ()
