"""What a gate demands of a report: rules, and excuses for what breaks them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import PurePath
from typing import Literal, get_args

from peelaudit.errors import ConfigError
from peelaudit.records import GateCheck
from peelaudit.settings.declared import Group, declared, out_of_range, setting
from peelaudit.settings.kinds import FORBIDDEN_NAMES, PATH, REGRESSION_RULES, RULES, TEXT
from peelaudit.settings.rules import Forbidden, Rule, Selector, metric_of

__all__ = ["GATE_SETTINGS", "GatePolicy", "OnInconclusive", "Suppression"]

OnInconclusive = Literal["warn", "pass", "fail"]


@dataclass(frozen=True, slots=True)
class Suppression:
    """An excuse for checks that don't pass, until it expires.

    Attributes:
        checkpoint: a glob for the report's path of the checkpoint, or for the last parts of it.
        layers: which rows; None for all, the network's too.
        metric: of which field; None for all. `gap` is gap_layers of the network, and a layer's own of a layer.
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
            and (self.metric is None or metric_of(self.metric, check.layer) == check.metric)
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

    fail_over: tuple[Rule, ...] = setting(
        (),
        RULES,
        Group.GATE,
        "RULE",
        "Fail where a held-out figure is over its limit, interval and all: gap_layers=0.05, layer.gap=0.02, "
        "layer[1-3,7].gap=0.02. In nats/token, or a ratio. Repeatable.",
    )
    fail_on: tuple[Forbidden, ...] = setting(
        (),
        FORBIDDEN_NAMES,
        Group.GATE,
        "WHAT",
        "Fail where the held-out verdict is red, yellow (or worse) or grey, or where a layer is named for its "
        "looks, its slopes or its gap. Repeatable.",
    )
    fail_regression: tuple[Rule, ...] = setting(
        (),
        REGRESSION_RULES,
        Group.GATE,
        "RULE",
        "Fail where a figure has risen since the baseline by more than trained_loss=1% of it, or =0.01 nats/token, "
        "paired on the same tokens. Repeatable.",
    )
    baseline: str | None = setting(
        None, PATH, Group.GATE, "REPORT", "The JSON report that --fail-regression compares with."
    )
    on_inconclusive: OnInconclusive = setting(
        "warn",
        TEXT,
        Group.GATE,
        "WHAT",
        "What becomes of a check whose interval straddles its limit: warn, pass or fail.",
        choices=get_args(OnInconclusive),
    )
    suppressions: tuple[Suppression, ...] = ()

    def __post_init__(self) -> None:
        """Raise one `ConfigError` that names every setting which makes no sense, by the setting's name."""
        problems = out_of_range(self, GATE_SETTINGS.values())
        if self.fail_regression and self.baseline is None:
            problems.append("fail-regression needs a baseline: the report to compare with")
        if problems:
            raise ConfigError(*problems)

    @property
    def demands(self) -> bool:
        """Whether there is any rule."""
        return bool(self.fail_over or self.fail_on or self.fail_regression)


GATE_SETTINGS = declared(GatePolicy)
"""Every field of `GatePolicy` but the suppressions, which are no flags."""
