"""One report's charts, each with its caption and its numbers: gaps, the peel map, redundancy."""

from __future__ import annotations

from collections.abc import Iterator

from peelaudit.records import AuditReport, Verdict
from peelaudit.reports.formats.charts import ERROR_SCALE, Mark, by_layer, heat_map, legend, mark
from peelaudit.reports.formats.html.parts import Column, figure, heading, table
from peelaudit.reports.formats.markup import Markup, element
from peelaudit.reports.wording.text import VERDICT_WORDS, interval, number, signed, verdict_text

__all__ = ["gaps", "peel_map", "redundancy"]


def gaps(report: AuditReport, level: int) -> Iterator[Markup]:
    """The gap of each layer with its interval and its verdict."""
    if not report.layers:
        return
    marks = [
        Mark(
            row.layer,
            row.gap,
            row.held_out.verdict,
            f"layer {row.layer}: gap {signed(row.gap.value)} ({interval(row.gap, sign=True)}), "
            f"{verdict_text(row.held_out.verdict)}",
        )
        for row in report.layers
    ]
    title = f"Gap by layer with 95 % intervals, {len(marks)} layers, nats/token; the numbers are in the table below"
    yield heading(level, "Gap by layer")
    yield figure(
        lambda width: by_layer(marks, title=title, unit="gap, nats/token", width=width),
        "Trained states of blocks 1 to k minus the best reference states, held-out, same tokens, same readout. "
        "Above 0, a reference does better. The last is the whole network.",
        _verdict_legend(),
    )


def _verdict_legend() -> Markup:
    """The marks of the verdicts, in words."""
    items = [
        element(
            "li",
            element(
                "svg",
                element("g", mark(verdict, 8, 8, 5), class_=f"v-{verdict}"),
                width=16,
                height=16,
                class_="chart",
                aria_hidden="true",
            ),
            f" {verdict}: {VERDICT_WORDS[verdict][1]}",
        )
        for verdict in Verdict
    ]
    return element("ul", *items, class_="legend")


def peel_map(report: AuditReport, level: int) -> Iterator[Markup]:
    """The triangle of projection errors as a heat map, and in numbers."""
    if not report.layers:
        return
    layers = [str(row.layer) for row in report.layers]
    cells = {
        (index, index + step): error.value
        for index, row in enumerate(report.layers)
        for step, error in enumerate(row.projection_error)
        if index + step < len(layers)
    }
    title = (
        f"Peel map, {len(layers)} layers: the error of block k refitted to the state after layer j, from "
        f"{number(min(cells.values(), default=0.0))} to {number(max(cells.values(), default=0.0))}"
    )
    yield heading(level, "Peel map")
    yield figure(
        lambda width: heat_map(
            cells,
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
    columns = [Column("block", right=True), *(Column(f"j={layer}", right=True) for layer in layers)]
    rows = [
        [layer, *("" if (k, j) not in cells else f"{cells[k, j]:.3g}" for j in range(len(layers)))]
        for k, layer in enumerate(layers)
    ]
    yield element(
        "details",
        element("summary", "The peel map in numbers"),
        table("Error of block k (rows) refitted to the state after layer j (columns)", columns, rows, small=True),
    )


def redundancy(report: AuditReport, level: int) -> Iterator[Markup]:
    """What leaving each block out would cost."""
    if not report.layers:
        return
    marks = [
        Mark(
            row.layer,
            row.redundancy,
            None,
            f"layer {row.layer}: {number(row.redundancy.value)} ({interval(row.redundancy)})",
        )
        for row in report.layers
    ]
    title = f"Redundancy by layer with 95 % intervals, {len(marks)} layers; the numbers are in the table of the layers"
    yield heading(level, "Redundancy")
    yield figure(
        lambda width: by_layer(marks, title=title, unit="error of leaving the block out", width=width),
        "Normalised mean squared error of leaving the block out, held-out. Near 0, the block does nothing.",
    )
