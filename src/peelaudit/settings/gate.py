"""What a gate demands of a report: rules, and excuses for what breaks them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import PurePath
from typing import Literal, get_args

from peelaudit.errors import ConfigError
from peelaudit.records import GateCheck
from peelaudit.settings.rules import Forbidden, Rule, Selector

__all__ = ["GatePolicy", "OnInconclusive", "Suppression"]

OnInconclusive = Literal["warn", "pass", "fail"]


@dataclass(frozen=True, slots=True)
class Suppression:
    """An excuse for checks that don't pass, until it expires.

    Attributes:
        checkpoint: a glob for the report's path of the checkpoint, or for the last parts of it.
        layers: which rows; None for all, the network's too.
        metric: of which field; None for all.
        rule: of which rule, as it was written; None for all.
        reason: why.
        expires: the last day on which it counts.
    """

    checkpoint: str
    layers: Selector | None
    metric: str | None
    rule: str | None
    reason: str
    expires: date

    def covers(self, path: str) -> bool:
        """Whether it is about the checkpoint with this path."""
        return PurePath(path).match(self.checkpoint)

    def excuses(self, check: GateCheck) -> bool:
        """Whether it is about this check, whatever the date."""
        return (
            self.covers(check.checkpoint)
            and (self.layers is None or check.layer in self.layers)
            and self.metric in (None, check.metric)
            and self.rule in (None, check.rule)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """All that a gate goes by.

    Attributes:
        fail_over: limits on a report's own figures.
        fail_on: held-out verdicts of the network that fail, and whether a named layer does; see `FORBIDDEN`.
        fail_regression: limits on what a figure may have risen by since the baseline.
        baseline: the baseline's report.
        on_inconclusive: what becomes of a check whose interval straddles its limit.
        suppressions: excuses.
    """

    fail_over: tuple[Rule, ...] = ()
    fail_on: tuple[Forbidden, ...] = ()
    fail_regression: tuple[Rule, ...] = ()
    baseline: str | None = None
    on_inconclusive: OnInconclusive = "warn"
    suppressions: tuple[Suppression, ...] = ()

    def __post_init__(self) -> None:
        """Raise one `ConfigError` that names every setting which makes no sense, by the setting's name."""
        problems = []
        if self.on_inconclusive not in get_args(OnInconclusive):
            expected = " | ".join(get_args(OnInconclusive))
            problems.append(f"on-inconclusive is {self.on_inconclusive!r}: expected {expected}")
        if self.fail_regression and self.baseline is None:
            problems.append("fail-regression needs a baseline: the report to compare with")
        if problems:
            raise ConfigError(*problems)

    @property
    def demands(self) -> bool:
        """Whether there is any rule."""
        return bool(self.fail_over or self.fail_on or self.fail_regression)
