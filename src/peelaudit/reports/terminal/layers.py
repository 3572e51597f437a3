"""The layers: a row for each peel depth, the network's own last."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records import AuditReport, LayerRow, RepairInfo, Verdict
from peelaudit.reports.terminal import schedules
from peelaudit.reports.terminal.page import STYLES, heading, pairs, prose, table
from peelaudit.reports.wording.text import VERDICT_WORDS, interval, number, signed, verdict_text

__all__ = ["notable", "parts"]

_WIDE, _WITH_SLOPES, _DISTORTION = 104, 122, 9
"""Columns of text from which on there is more in a row, and what the distortion takes of them."""
_NOTABLE = 3


def parts(report: AuditReport, width: int) -> Iterator[RenderableType]:
    """The section's pieces."""
    wide = width >= _WIDE
    slopes = report.has_slopes and width >= _WITH_SLOPES + _DISTORTION * _with_distortion(report)
    yield heading("The layers, on held-out tokens: blocks 1 to k alone, read out at once")
    yield _rows(report, wide=wide, slopes=slopes)
    yield prose((_readout_words(report), "dim"))
    words = "redund.: the error of leaving the block out (0: it does nothing). best: the reference behind the bound, "
    words += "and the state that it fits this block to."
    if wide:
        words += (
            " next: the error of this block, refitted, at the next block's job; near 0, the next block is redundant."
        )
    if wide and _with_distortion(report):
        words += " distort.: what the bits cost the best reference."
    yield prose((words, "dim"))
    if not wide:
        signs = ", ".join(f"{sign} {verdict} {word}" for verdict, (sign, word) in VERDICT_WORDS.items())
        yield prose((f"{signs}.", "dim"))
    if slopes:
        slope = "slope: the derivative of the whole network's loss by the log of a scale of block k's matrices; near 0 "
        slope += "where training has settled it. bulk: the same without their leading directions; noise raises it."
        yield prose((slope, "dim"))
    if report.repair is not None:
        yield from _repair(report, report.repair)
    if worst := notable(report):
        yield Text("")
        yield pairs((f"layer {row.layer}", prose(row.reading)) for row in worst)


def _repair(report: AuditReport, info: RepairInfo) -> Iterator[RenderableType]:
    """What each block's repair gains, the most first."""
    yield heading("Repair gaps, held-out: what the network gains when block k alone is repaired")
    grid = table()
    for name in ("rank", "k", "gap", "95 %", "steps"):
        grid.add_column(name, justify="right", no_wrap=True, min_width=6)
    grid.add_column("", no_wrap=True)
    gaps = [(row.layer, row.repair_gap) for row in report.layers if row.repair_gap is not None]
    for rank, (layer, gap) in enumerate(sorted(gaps, key=lambda item: -item[1].value), 1):
        words = "stands out" if layer in info.named else ""
        steps = str(info.steps[layer - 1])
        grid.add_row(str(rank), str(layer), signed(gap.value), interval(gap, sign=True), steps, words)
    yield grid
    yield prose((f"{info.mode}; it took {info.passes:.0f} forward passes over the calibration tokens.", "dim"))


def _readout_words(report: AuditReport) -> str:
    """Which readout the rows have: it may be another one for the last, the whole network."""
    last = report.layers[-1].readout if report.layers else report.network.readout
    others = {row.readout for row in report.layers[:-1]} - {last}
    words = f"The last row is the whole network, readout {last}"
    return words + (f"; the rows above it, {' or '.join(sorted(others))}." if others else ".")


def notable(report: AuditReport) -> tuple[LayerRow, ...]:
    """The few layers with the largest gaps among those that lose to a reference, in order of depth."""
    losing = [row for row in report.layers if row.held_out.verdict in (Verdict.RED, Verdict.YELLOW)]
    largest = sorted(losing, key=lambda row: -row.gap.value)[:_NOTABLE]
    return tuple(sorted(largest, key=lambda row: row.layer))


def _rows(report: AuditReport, *, wide: bool, slopes: bool) -> Table:
    grid = table()
    grid.add_column("k", justify="right", no_wrap=True)
    for name in ("trained", "YES-0", "bound", "gap", "95 %"):
        grid.add_column(name, justify="right", no_wrap=True, min_width=7 if wide else 6)
    grid.add_column("best", no_wrap=True)
    if wide:
        grid.add_column("fit gap", justify="right", no_wrap=True, min_width=8)
    if wide and _with_distortion(report):
        grid.add_column("distort.", justify="right", no_wrap=True, min_width=8)
    grid.add_column("redund.", justify="right", no_wrap=True)
    if wide:
        grid.add_column("next", justify="right", no_wrap=True, min_width=6)
    if slopes:
        for name in ("slope", "bulk"):
            grid.add_column(name, justify="right", no_wrap=True, min_width=7)
    grid.add_column("verdict", no_wrap=True)
    for row in report.layers[:-1]:
        grid.add_row(*_cells(report, row, wide=wide, slopes=slopes))
    grid.add_section()
    for row in report.layers[-1:]:
        grid.add_row(*_cells(report, row, wide=wide, slopes=slopes))
    return grid


def _with_distortion(report: AuditReport) -> bool:
    return any(row.held_out.distortion is not None for row in report.layers)


def _cells(report: AuditReport, row: LayerRow, *, wide: bool, slopes: bool) -> Iterator[str | Text]:
    figures, verdict = row.held_out, row.held_out.verdict
    yield str(row.layer)
    yield number(figures.trained_readout_loss.value)
    yield number(figures.yes0.value)
    yield number(figures.bound.value)
    yield signed(row.gap.value)
    yield interval(row.gap, sign=True)
    yield f"{schedules.short_name(report, row.best_schedule, 20 if wide else 9)}→{row.best_target}"
    if wide:
        yield signed(row.fit.gap_layers.value)
    if wide and _with_distortion(report):
        yield "" if figures.distortion is None else signed(figures.distortion.value)
    yield number(row.redundancy.value)
    if wide:
        yield number(row.projection_error[1].value) if len(row.projection_error) > 1 else ""
    if slopes:
        for slope in (row.scale_slope, row.bulk_slope):
            yield "" if slope is None else signed(slope.value)
    sign, _ = VERDICT_WORDS[verdict]
    yield Text(f" {verdict_text(verdict) if wide else f'{sign} {verdict}'}", STYLES[verdict])
