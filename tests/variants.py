"""Variants of a report from `factories`: what a changed checkpoint's would be."""

from __future__ import annotations

import dataclasses
from typing import Any

from peelaudit.records import AuditReport, Verdict


def with_row(report: AuditReport, layer: int, **changes: Any) -> AuditReport:
    """The report with fields of a row replaced, the network's as well if it is the last."""
    rows = [dataclasses.replace(row, **changes) if row.layer == layer else row for row in report.layers]
    network = dataclasses.replace(report.network, held_out=rows[-1].held_out)
    return dataclasses.replace(report, layers=tuple(rows), network=network)


def moved(
    report: AuditReport, layer: int, by: float, *, spread: float = 0.0, losses: tuple[str, ...] = ("own",)
) -> AuditReport:
    """A row's losses moved by `by` nats/token, some clusters by `spread` more and as many by that much less."""
    row = report.layers[layer - 1]
    signs = [(-1) ** index for index in range(len(report.held_out_predictions))]

    def shift(values: tuple[float, ...]) -> tuple[float, ...]:
        tokens = report.held_out_predictions
        return tuple(v + n * (by + spread * s) for v, n, s in zip(values, tokens, signs, strict=True))

    sums = dataclasses.replace(row.held_out_sums, **{name: shift(getattr(row.held_out_sums, name)) for name in losses})
    return with_row(report, layer, held_out_sums=sums)


def judged(report: AuditReport, layer: int, verdict: Verdict) -> AuditReport:
    return with_row(report, layer, held_out=dataclasses.replace(report.layers[layer - 1].held_out, verdict=verdict))


def reweighted(report: AuditReport, *layers: int) -> AuditReport:
    for layer in layers:
        report = with_row(report, layer, weights_sha256="f" * 64)
    return report


def with_settings(report: AuditReport, **changes: object) -> AuditReport:
    return dataclasses.replace(report, settings=tuple({**dict(report.settings), **changes}.items()))


def unfitted(report: AuditReport) -> AuditReport:
    """The report as if no reference block had been fitted: without YES-0."""
    rows = [
        dataclasses.replace(
            row,
            fit=dataclasses.replace(row.fit, yes0=None),
            held_out=dataclasses.replace(row.held_out, yes0=None),
            held_out_sums=dataclasses.replace(row.held_out_sums, yes0=None),
        )
        for row in report.layers
    ]
    network = dataclasses.replace(
        report.network,
        fit=dataclasses.replace(report.network.fit, yes0=None),
        held_out=dataclasses.replace(report.network.held_out, yes0=None),
        paper_verdict=None,
    )
    return dataclasses.replace(report, layers=tuple(rows), network=network)


def uncompared(report: AuditReport) -> AuditReport:
    """The report as if no reference were another network."""
    network = dataclasses.replace(report.network, rival=None, margin=None, refinement=None, best_schedule="direct")
    return dataclasses.replace(unfitted(report), network=dataclasses.replace(network, paper_verdict=None))
