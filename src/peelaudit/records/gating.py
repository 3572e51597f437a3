"""What became of a gate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peelaudit.records.figures import Estimate

__all__ = ["GateCheck", "Outcome"]


class Outcome(StrEnum):
    """What became of one rule of a gate on one row of a report."""

    PASSED = "passed"
    """Within the limit, and the interval agrees."""
    FAILED = "failed"
    """Beyond the limit, the whole interval."""
    INCONCLUSIVE = "inconclusive"
    """The interval straddles the limit."""
    SUPPRESSED = "suppressed"
    """Not passed, but excused by a suppression in the configuration that has not expired."""


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One rule of a gate applied to one row of one report.

    `checkpoint` is the report's `checkpoint.path`. `rule` is as it was written (`layer.gap=0.02`, `red`). `layer` is
    None for the network. `metric` is the field that was looked at, `limit` what it must not pass, both in nats/token;
    `limit` and `figure` are None where the rule is about a verdict. `suppressed` says what a SUPPRESSED check would
    have been, and None for any other. `fails` says whether this check makes the gate fail. `reason` is one sentence.
    """

    checkpoint: str
    rule: str
    layer: int | None
    metric: str
    limit: float | None
    figure: Estimate | None
    outcome: Outcome
    suppressed: Outcome | None
    fails: bool
    reason: str
