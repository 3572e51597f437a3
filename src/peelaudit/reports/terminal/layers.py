"""The layers in full: what each block by itself shows, and the network cut after each depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.records import AuditReport, LayerRefinement, LayerRow, Verdict
from peelaudit.records.quantities import Quantity
from peelaudit.reports.terminal import schedules
from peelaudit.reports.terminal.page import heading, pairs, prose, table
from peelaudit.reports.wording.findings import PARENT_GAP, PROFILE_WORDS, block_columns, profile_columns, profile_figure
from peelaudit.reports.wording.tables import figure_text, glossary
from peelaudit.reports.wording.text import count, interval, signed
from peelaudit.reports.wording.words import parent_words

__all__ = ["notable", "parts"]

_WIDE = 92
"""Columns of text from which on the profile has the fit tokens' gap too, and whole names."""
_NOTABLE = 3
_BETTER = "its parent's block does better"
_LEAST_PASSES = 0.5
"""Of a stage, for it to be told."""


def parts(report: AuditReport, width: int) -> Iterator[RenderableType]:
    """The section's pieces."""
    own, profile = block_columns(report.layers), profile_columns(report.layers)
    yield heading("Each layer by itself, on held-out tokens")
    yield _own(report, own)
    yield prose((glossary(own), "dim"))
    yield from map(prose, _cost_words(report))
    if any(row.parent_gap is not None for row in report.layers):
        yield heading("Each layer against its parent's, on held-out tokens")
        if words := parent_words(report):
            yield prose(words, ".")
        yield _against(report)
        yield prose((glossary([PARENT_GAP]), "dim"))
    yield heading("The peel profile, on held-out tokens")
    yield _profile(report, profile, wide=width >= _WIDE)
    words = " best: the reference behind the bound, and the state that it fits block k to. "
    yield prose((f"{PROFILE_WORDS}{words}{glossary(profile)} {_readout_words(report)}", "dim"))
    if told := notable(report):
        yield Text("")
        yield pairs((f"layer {row.layer}", prose(row.reading)) for row in told)


def notable(report: AuditReport) -> tuple[LayerRow, ...]:
    """The named layers, and the few with the largest depth gaps of those that lose to a reference, by depth."""
    losing = [row for row in report.layers if row.held_out.verdict in (Verdict.RED, Verdict.YELLOW)]
    largest = {row.layer for row in sorted(losing, key=lambda row: -row.depth_gap.value)[:_NOTABLE]}
    return tuple(row for row in report.layers if row.layer in largest | {*report.named})


def _own(report: AuditReport, columns: Sequence[Quantity]) -> Table:
    """The layers' own figures, and how far each block was refined; behind the gap, if there is one, its interval."""
    info = report.refinement
    grid = table()
    headers = (name for one in columns for name in (one.header, *(("95 %",) if one.key == "gap" else ())))
    for name in ("k", *headers, *(() if info is None else ("steps", "pr."))):
        grid.add_column(name, justify="right", no_wrap=True)
    for row in report.layers:
        cells = [str(row.layer)]
        for one in columns:
            cells.append(figure_text(one.of(row), one.form))
            if one.key == "gap":
                cells.append("" if row.gap is None else interval(row.gap, sign=True))
        grid.add_row(*cells, *_effort(info, row.layer))
    return grid


def _against(report: AuditReport) -> Table:
    """What each layer loses to its parent's, with its interval."""
    better = () if report.parent is None else report.parent.better
    grid = table()
    for name in ("k", PARENT_GAP.header, "95 %"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("")
    for row in report.layers:
        gap = row.parent_gap
        cells = ("", "") if gap is None else (signed(gap.value), interval(gap, sign=True))
        grid.add_row(str(row.layer), *cells, Text(_BETTER if row.layer in better else "", "yellow"))
    return grid


def _effort(info: LayerRefinement | None, layer: int) -> tuple[str, ...]:
    return () if info is None else (str(info.steps[layer - 1]), str(info.products[layer - 1]))


def _cost_words(report: AuditReport) -> Iterator[str]:
    """What refining took."""
    if (alone := report.refinement) is not None:
        yield (
            "steps, pr.: the natural-gradient steps that the block took, and the products with the exact curvature. "
            f"Refining blocks alone took {count(round(alone.passes))} forward passes over the calibration tokens."
        )
    if (whole := report.network.refinement) is not None:
        yield (
            f"All together took {whole.steps} steps, {whole.products} products and {count(round(whole.passes))} passes."
        )
    if report.passes:
        most = ", ".join(f"{stage} {count(round(done))}" for stage, done in report.passes if done >= _LEAST_PASSES)
        yield f"The audit took {count(round(sum(done for _, done in report.passes)))} passes in all: {most}."


def _readout_words(report: AuditReport) -> str:
    """Which readout the rows have: it may be another one for the last, the whole network."""
    last = report.layers[-1].readout if report.layers else report.network.readout
    others = {row.readout for row in report.layers[:-1]} - {last}
    words = f"The last row is the whole network, readout {last}"
    return words + (f"; the rows above it, {' or '.join(sorted(others))}." if others else ".")


def _profile(report: AuditReport, columns: Sequence[Quantity], *, wide: bool) -> Table:
    grid = table()
    grid.add_column("k", justify="right", no_wrap=True)
    for name in (*(one.header for one in columns), "95 %"):
        grid.add_column(name, justify="right", no_wrap=True, min_width=7 if wide else 6)
    grid.add_column("best", no_wrap=True)
    if wide:
        grid.add_column("fit gap", justify="right", no_wrap=True)
    for index, row in enumerate(report.layers):
        if index == len(report.layers) - 1:
            grid.add_section()
        figures = (figure_text(profile_figure(one, row), one.form) for one in columns)
        best = f"{schedules.short_name(report, row.best_schedule, 20 if wide else 9)}→{row.best_target}"
        fit = (signed(row.fit.gap_layers.value),) if wide else ()
        grid.add_row(str(row.layer), *figures, interval(row.depth_gap, sign=True), best, *fit)
    return grid
