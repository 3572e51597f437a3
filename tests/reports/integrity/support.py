"""Training runs on records alone: losses after every layer that fall, by the weights of each step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from peelaudit.records import AuditReport
from peelaudit.reports.integrity.finding import Finding
from peelaudit.reports.trajectory import trace
from tests.reports.formats.support import make_step

HEALTHY = (4.0, 3.2, 2.7, 2.4, 2.2, 2.1, 2.04, 2.0)


def run(losses: Sequence[float] = HEALTHY) -> list[AuditReport]:
    """Steps 0, 100, 200, …; what is lost after every layer moves with what the network loses."""
    return [at_loss(make_step(100 * index, loss, 5.0, loss - 0.1), loss) for index, loss in enumerate(losses)]


def at_loss(report: AuditReport, loss: float) -> AuditReport:
    rows = tuple(
        dataclasses.replace(
            row,
            held_out_sums=dataclasses.replace(
                row.held_out_sums,
                own=tuple(
                    n * (loss + 0.02 * ((7 * cluster) % 5 - 2)) for cluster, n in enumerate(report.held_out_predictions)
                ),
            ),
        )
        for row in report.layers
    )
    return dataclasses.replace(report, layers=rows)


def with_weights_of(report: AuditReport, other: AuditReport, layers: Sequence[int]) -> AuditReport:
    """With the blocks of another step."""
    rows = tuple(
        dataclasses.replace(row, weights_sha256=theirs.weights_sha256) if row.layer in layers else row
        for row, theirs in zip(report.layers, other.layers, strict=True)
    )
    return dataclasses.replace(report, layers=rows)


def called(report: AuditReport, path: str, step: int | None, sha256: str | None = None) -> AuditReport:
    info = report.checkpoint
    new = dataclasses.replace(info, path=path, training_step=step, sha256=sha256 or info.sha256)
    return dataclasses.replace(report, checkpoint=new)


def found(reports: Sequence[AuditReport]) -> tuple[Finding, ...]:
    return trace(reports).defects
