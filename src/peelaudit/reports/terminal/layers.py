"""The layers: a row for each peel depth, the network's own last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records import AuditReport, LayerRow, RepairInfo, Verdict
from peelaudit.records.quantities import Quantity, Room
from peelaudit.reports.terminal import schedules
from peelaudit.reports.terminal.page import STYLES, heading, pairs, prose, table
from peelaudit.reports.wording.tables import cut_columns, figure_text, glossary, layer_columns
from peelaudit.reports.wording.text import VERDICT_WORDS, interval, signed, verdict_text

__all__ = ["notable", "parts"]

_WIDE, _COLUMN = 104, 9
"""Columns of text from which on there is more in a row, and what each figure beyond that needs."""
_NOTABLE = 3


def parts(report: AuditReport, width: int) -> Iterator[RenderableType]:
    """The section's pieces."""
    wide = width >= _WIDE
    cut, own = _columns(report, width)
    yield heading("The layers, on held-out tokens: blocks 1 to k alone, read out at once")
    yield _rows(report, cut, own, wide=wide)
    yield prose((_readout_words(report), "dim"))
    words = "best: the reference behind the bound, and the state that it fits this block to. "
    explained = [one for one in (*cut, *own[1:]) if one in own or one.room is not Room.ANY]
    yield prose((words + glossary(explained), "dim"))
    if not wide:
        signs = ", ".join(f"{sign} {verdict} {word}" for verdict, (sign, word) in VERDICT_WORDS.items())
        yield prose((f"{signs}.", "dim"))
    if report.repair is not None:
        yield from _repair(report, report.repair)
    if worst := notable(report):
        yield Text("")
        yield pairs((f"layer {row.layer}", prose(row.reading)) for row in worst)


def _columns(report: AuditReport, width: int) -> tuple[list[Quantity], list[Quantity]]:
    """The figures that a terminal has room for: of the network cut after each layer, and the layers' own."""
    cut, own = cut_columns(report.layers), layer_columns(report.layers)
    most = Room.WIDE if width >= _WIDE else Room.ANY
    narrower = sum(one.room is Room.WIDE for one in cut)
    left = (width - _WIDE) // _COLUMN - narrower
    widest = [one for one in own if one.room is Room.WIDEST][: max(0, left)]
    return [one for one in cut if one.room <= most], [one for one in own if one.room <= most or one in widest]


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


def _rows(report: AuditReport, cut: Sequence[Quantity], own: Sequence[Quantity], *, wide: bool) -> Table:
    gap, *others = own
    grid = table()
    grid.add_column("k", justify="right", no_wrap=True)
    for one in (*(one for one in cut if one.room is Room.ANY), gap):
        grid.add_column(one.header, justify="right", no_wrap=True, min_width=7 if wide else 6)
    grid.add_column("95 %", justify="right", no_wrap=True, min_width=7 if wide else 6)
    grid.add_column("best", no_wrap=True)
    if wide:
        grid.add_column("fit gap", justify="right", no_wrap=True, min_width=8)
    for one in (*(one for one in cut if one.room is not Room.ANY), *others):
        grid.add_column(one.header, justify="right", no_wrap=True, min_width=7 if wide else 6)
    grid.add_column("verdict", no_wrap=True)
    for index, row in enumerate(report.layers):
        if index == len(report.layers) - 1:
            grid.add_section()
        grid.add_row(*_cells(report, row, cut, own, wide=wide))
    return grid


def _cells(
    report: AuditReport, row: LayerRow, cut: Sequence[Quantity], own: Sequence[Quantity], *, wide: bool
) -> Iterator[str | Text]:
    figures, verdict = row.held_out, row.held_out.verdict
    yield str(row.layer)
    yield from (figure_text(one.of(figures), one.form) for one in cut if one.room is Room.ANY)
    yield signed(row.gap.value)
    yield interval(row.gap, sign=True)
    yield f"{schedules.short_name(report, row.best_schedule, 20 if wide else 9)}→{row.best_target}"
    if wide:
        yield signed(row.fit.gap_layers.value)
    yield from (figure_text(one.of(figures), one.form) for one in cut if one.room is not Room.ANY)
    yield from (figure_text(one.of(row), one.form) for one in own[1:])
    sign, _ = VERDICT_WORDS[verdict]
    yield Text(f" {verdict_text(verdict) if wide else f'{sign} {verdict}'}", STYLES[verdict])
