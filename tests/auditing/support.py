"""Audits of a fixture that tests of a module share, and a tiny network's tokens as calibration data without a text."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import peelaudit
from peelaudit.calibration import Calibration
from peelaudit.calibration.splits import Split
from peelaudit.records import AuditReport, ScheduleResult
from tests.factories import make_data
from tests.networks import Network
from tests.places import FIXTURES


def calibration_of(network: Network) -> Calibration:
    """Its tokens in their splits, every sequence a cluster; what is told of them is of another text."""
    rows = network.rows
    fit, select, held_out = (
        Split(network.tokens[part].numpy(), np.arange(part.stop - part.start))
        for part in (rows.fit, rows.select, rows.held_out)
    )
    return Calibration(fit, select, held_out, make_data(), ())


SMALL: dict[str, Any] = {"tokens": 3072, "seq_len": 64, "resamples": 200}


@cache
def audited(checkpoint: str = "nanogpt/ckpt.pt", **settings: Any) -> AuditReport:
    return peelaudit.audit(FIXTURES / checkpoint, **{**SMALL, **settings})


def quick(checkpoint: str = "nanogpt/ckpt.pt", **settings: Any) -> AuditReport:
    """Without refining, which most of a report doesn't depend on."""
    return audited(checkpoint, effort="quick", **settings)


def one(report: AuditReport, name: str) -> ScheduleResult:
    return next(schedule for schedule in report.schedules if schedule.name == name)
