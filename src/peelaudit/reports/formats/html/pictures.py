"""One report's charts, each with its caption: gaps, peel profile, the peel map and its numbers, redundancy."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from peelaudit.records import AuditReport, Estimate
from peelaudit.reports.formats.charts import ERROR_SCALE, Mark, heat_map, legend, sample, square, whiskers
from peelaudit.reports.formats.html.parts import Column, Figure, Legend, Table, figure, table
from peelaudit.reports.formats.markup import element
from peelaudit.reports.wording.findings import layer_note
from peelaudit.reports.wording.text import interval, number, signed

__all__ = ["Pictures", "drawn", "standing_out"]


@dataclass(frozen=True, slots=True)
class Pictures:
    """The charts of a report that has layers; `gaps` where blocks were refined alone, `parent` where there is one."""

    gaps: Figure | None
    parent: Figure | None
    profile: Figure
    peel_map: Figure
    peel_errors: Table
    redundancy: Figure


def drawn(report: AuditReport) -> Pictures | None:
    """The report's charts; none without layers."""
    if not report.layers:
        return None
    errors = _peel_errors(report)
    peel_map, peel_table = _peel_map(report, errors), _peel_table(report, errors)
    return Pictures(_gaps(report), _parent(report), _profile(report), peel_map, peel_table, _redundancy(report))


def _marks(rows: Iterable[tuple[int, Estimate | None, str]], apart: Collection[int]) -> list[Mark]:
    """Layers' figures with a note each, for a chart; those without are left out."""
    return [
        Mark(
            str(layer),
            found,
            f"layer {layer}: {signed(found.value)} ({interval(found, sign=True)}) {note}".rstrip(),
            stands_out=layer in apart,
        )
        for layer, found, note in rows
        if found is not None
    ]


def _gaps(report: AuditReport) -> Figure | None:
    """Each layer's own gap with its interval; those named stand out."""
    named = report.named
    marks = _marks(((row.layer, row.gap, layer_note(report, row)) for row in report.layers), named)
    if not marks:
        return None
    title = f"Gap by layer with 95 % intervals, {len(marks)} layers, nats/token; the numbers are in the table below"
    return figure(
        lambda width: whiskers(marks, title=title, unit="gap, nats/token", width=width),
        "By how much the whole network's held-out loss falls when this block alone is refined and every other left as "
        "it is, under the network's readout.",
        standing_out("a layer that the audit names, for its gap, its looks or its slopes") if named else (),
    )


def _parent(report: AuditReport) -> Figure | None:
    """What each layer loses to its parent's; those of which all of the interval is above the tolerance stand out."""
    better = () if report.parent is None else report.parent.better
    marks = _marks(((row.layer, row.parent_gap, "") for row in report.layers), better)
    if not marks:
        return None
    title = f"Parent gap by layer with 95 % intervals, {len(marks)} layers, nats/token; the numbers are in the table"
    return figure(
        lambda width: whiskers(marks, title=title, unit="parent gap, nats/token", width=width),
        "By how much the network's held-out loss falls with its parent's block in the place of this one, every other "
        "left as it is, under its own head.",
        standing_out("a layer in which the parent's block does better by more than the tolerance") if better else (),
    )


def standing_out(words: str) -> Legend:
    """What a mark that stands out is."""
    return ((sample(element("g", square(8, 8, 5), class_="v-strong"), 16), words),)


def _profile(report: AuditReport) -> Figure:
    """The gap of the network cut after each layer."""
    marks = [
        Mark(
            str(row.layer),
            row.depth_gap,
            f"cut after layer {row.layer}: {signed(row.depth_gap.value)} ({interval(row.depth_gap, sign=True)})",
        )
        for row in report.layers
    ]
    title = f"Depth gap by layer with 95 % intervals, {len(marks)} layers, nats/token; the numbers are in a table below"
    return figure(
        lambda width: whiskers(marks, title=title, unit="depth gap, nats/token", width=width),
        "Trained states after block k minus the best reference states, held-out, same tokens, same readout. Above 0, a "
        "reference does better. The last is the whole network.",
    )


def _peel_errors(report: AuditReport) -> dict[tuple[int, int], float]:
    """The triangle of projection errors: block k's, refitted to the state after layer j, both from 0."""
    return {
        (index, index + step): error.value
        for index, row in enumerate(report.layers)
        for step, error in enumerate(row.projection_error)
        if index + step < len(report.layers)
    }


def _peel_map(report: AuditReport, errors: dict[tuple[int, int], float]) -> Figure:
    layers = [str(row.layer) for row in report.layers]
    title = (
        f"Peel map, {len(layers)} layers: the error of block k refitted to the state after layer j, from "
        f"{number(min(errors.values(), default=0.0))} to {number(max(errors.values(), default=0.0))}"
    )
    return figure(
        lambda width: heat_map(
            errors,
            rows=layers,
            columns=layers,
            scale=ERROR_SCALE,
            title=title,
            axes=("block k", "fitted to the state after layer j"),
            width=width,
        ),
        "Normalised mean squared error, held-out: 0 is exact, 1 no better than the target's mean. Where it is small "
        "for j above k, blocks k+1 to j are redundant on this data.",
        legend(ERROR_SCALE),
    )


def _peel_table(report: AuditReport, errors: dict[tuple[int, int], float]) -> Table:
    layers = [str(row.layer) for row in report.layers]
    columns = [Column("block", right=True), *(Column(f"j={layer}", right=True) for layer in layers)]
    rows = (
        [layer, *("" if (k, j) not in errors else f"{errors[k, j]:.3g}" for j in range(len(layers)))]
        for k, layer in enumerate(layers)
    )
    return table("Error of block k (rows) refitted to the state after layer j (columns)", columns, rows, small=True)


def _redundancy(report: AuditReport) -> Figure:
    """What leaving each block out would cost."""
    marks = [
        Mark(
            str(row.layer),
            row.redundancy,
            f"layer {row.layer}: {number(row.redundancy.value)} ({interval(row.redundancy)})",
        )
        for row in report.layers
    ]
    title = f"Redundancy by layer with 95 % intervals, {len(marks)} layers; the numbers are in the table of the layers"
    return figure(
        lambda width: whiskers(marks, title=title, unit="error of leaving the block out", width=width),
        "Normalised mean squared error of leaving the block out, held-out. Near 0, the block does nothing.",
    )
