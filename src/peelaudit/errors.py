"""Every error that peelaudit raises on purpose.

    PeelauditError                  anything below; the command line prints it as one line, without a traceback
    ├── ConfigError                 the settings are wrong or contradict each other          (exit 2)
    │   └── IncomparableReports     two reports are not of the same tokens and settings
    ├── GateFailed                  a gate's rule is broken, and nothing else went wrong     (exit 1)
    ├── SeveralErrors               what went wrong with each of several subjects            (exit: the worst)
    ├── CheckpointError             the checkpoint can't be used                             (exit 3)
    │   ├── UnreadableCheckpoint    the file isn't there, or isn't what its name says
    │   ├── MalformedCheckpoint     the container is damaged, truncated or hostile
    │   ├── MismatchedWeights       the weights aren't those that the configuration promises
    │   ├── NonFiniteWeights        a tensor holds NaN or Inf
    │   └── UnsupportedCheckpoint   sound as far as it was read, but nothing that peelaudit can audit
    ├── CalibrationError            the calibration data can't be used                       (exit 3)
    ├── AuditError                  the audit could not be completed                         (exit 3)
    │   ├── NonFiniteResult         a loss or a state became NaN or Inf; names the layer
    │   └── OutOfMemory             it doesn't fit, one sequence at a time; names the stage
    ├── ReportError                 a saved report can't be used                             (exit 3)
    ├── OutputError                 what was found or mended could not be written            (exit 3)
    ├── NothingToFix                no change that was tried makes the network better        (exit 4)
    └── NothingToAudit              there is no checkpoint, or it has no layer, to audit     (exit 5)

A class's `exit_code` is what the command line returns for it. 0 is success, 1 a failed gate and nothing else, 130 an
interrupt. What an error is about, a file say, it is told by `about` on its way up, for what raises it seldom knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from peelaudit.escape import printable

__all__ = [
    "AuditError",
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "GateFailed",
    "ImplausibleWeights",
    "IncomparableReports",
    "MalformedCheckpoint",
    "MismatchedWeights",
    "NonFiniteResult",
    "NonFiniteWeights",
    "NothingToAudit",
    "NothingToFix",
    "OutOfMemory",
    "OutputError",
    "PeelauditError",
    "ReportError",
    "SeveralErrors",
    "UnreadableCheckpoint",
    "UnsupportedCheckpoint",
    "about",
    "is_out_of_memory",
]


class PeelauditError(Exception):
    """The root: `except PeelauditError` catches every error that peelaudit raises on purpose.

    `subject` is what it is about, where `about` said so; it stands before the message, or each of several. A message is
    one line: what a file has brought into it is escaped.
    """

    exit_code = 3
    subject: str | None = None

    def __str__(self) -> str:
        return "; ".join(self._messages())

    def _messages(self) -> tuple[str, ...]:
        before = "" if self.subject is None else f"{self.subject}: "
        return tuple(printable(f"{before}{message}") for message in self.args)

    def _attach(self, subject: str) -> None:
        if self.subject is None:
            self.subject = subject


class ConfigError(PeelauditError):
    """The settings are wrong or contradict each other.

    `problems` holds every mistake that was found, not just the first; `heading` says what several of them are.
    """

    exit_code = 2
    heading = "mistakes in the settings"

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """Every mistake, with its subject."""
        return self._messages()


class IncomparableReports(ConfigError):
    """Two reports can't be compared: other tokens, or other settings. `problems` holds what differs."""

    heading = "differences keep the reports from being compared"


class GateFailed(PeelauditError):
    """A rule of the gate is broken; the message is one line that says which."""

    exit_code = 1


class SeveralErrors(PeelauditError):
    """What went wrong with each of several subjects, in `errors`; the exit code is the highest of theirs."""

    def __init__(self, *errors: PeelauditError) -> None:
        self.errors = errors
        self.exit_code = max(error.exit_code for error in errors)
        super().__init__(*errors)

    def _attach(self, subject: str) -> None:
        for error in self.errors:
            error._attach(subject)


class CheckpointError(PeelauditError):
    """The checkpoint can't be used."""


class UnreadableCheckpoint(CheckpointError):
    """The file isn't there, can't be opened, or isn't of the kind that its name says."""


class MalformedCheckpoint(CheckpointError):
    """The container is damaged, truncated, contradicts itself, or asks for something that is never done."""


class MismatchedWeights(CheckpointError):
    """A weight that the configuration promises is missing, or has another shape."""


class NonFiniteWeights(CheckpointError):
    """A tensor holds NaN or Inf."""


class ImplausibleWeights(CheckpointError):
    """A tensor holds a value as no training leaves one: a flipped bit."""


class UnsupportedCheckpoint(CheckpointError):
    """Sound as far as it was read, but nothing that peelaudit can audit (an encoder, an unknown family)."""


class CalibrationError(PeelauditError):
    """The calibration data are missing, unreadable, too few, or not in the model's vocabulary."""


class AuditError(PeelauditError):
    """The audit could not be completed."""


class NonFiniteResult(AuditError):
    """A loss or a hidden state became NaN or Inf; the message names the layer and the schedule."""


class OutOfMemory(AuditError):
    """Memory ran out, with one sequence at a time too; the message names the stage."""


class ReportError(PeelauditError):
    """A saved report is unreadable, damaged, of another version, or no report at all."""


class OutputError(PeelauditError):
    """A report, or a checkpoint, could not be written."""


class NothingToFix(PeelauditError):
    """No change that was tried makes the network better on *held-out* text; nothing was written."""

    exit_code = 4


class NothingToAudit(PeelauditError):
    """There is no checkpoint to audit, or it has no decoder block."""

    exit_code = 5


@contextlib.contextmanager
def about(subject: str) -> Iterator[None]:
    """Say what the errors that pass are about. One that was told already keeps the nearer subject."""
    try:
        yield
    except PeelauditError as error:
        error._attach(subject)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own error, or torch's, which is a RuntimeError (with a class of its own on a GPU
    alone, and there not where one of CUDA's libraries asked).
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (
            isinstance(error, RuntimeError)
            and any(word in str(error) for word in ("DefaultCPUAllocator", "_STATUS_ALLOC_FAILED"))
        )
    )
