"""What a report found, in the words and columns that every file has: headline, layers, peel profile, refinement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peelaudit.records import AuditReport, Estimate, LayerRow, SplitFigures
from peelaudit.records.quantities import Form, Quantity, quantities_of
from peelaudit.reports.wording.tables import Line, cut_columns, figure_text, layer_columns
from peelaudit.reports.wording.text import VERDICT_WORDS, interval

__all__ = [
    "PARENT_GAP",
    "PROFILE_WORDS",
    "block_columns",
    "headline_text",
    "layer_note",
    "own_columns",
    "profile_columns",
    "profile_figure",
    "refinement_lines",
]

PROFILE_WORDS = (
    "Blocks 1 to k alone, read out at once, against reference blocks cut there too. Early depths always lose to blocks "
    "pointed straight at the last state, in healthy networks too: the profile accuses no layer."
)
PARENT_GAP = quantities_of(LayerRow)["parent_gap"]
_DEPTH_GAP = "depth_gap"


def headline_text(report: AuditReport) -> str:
    """The verdict's colour and sign, for readers with and without colours, and the headline."""
    sign, _ = VERDICT_WORDS[report.verdict]
    return f"{report.verdict} {sign} {report.headline}"


def layer_note(report: AuditReport, row: LayerRow) -> str:
    """Why a layer is named, and whether its parent's block does better; empty for the others."""
    reasons = [str(symptom) for symptom in row.symptoms]
    if report.refinement is not None and row.layer in report.refinement.named:
        reasons.append("its gap stands out")
    words = [f"Named: {', '.join(reasons)}."] if reasons else []
    if report.parent is not None and row.layer in report.parent.better:
        words.append("Its parent's block does better.")
    return " ".join(words)


def own_columns(rows: Sequence[LayerRow]) -> tuple[Quantity, ...]:
    """The figures of a table of layers: what each block by itself shows."""
    return tuple(one for one in layer_columns(rows) if one.key != _DEPTH_GAP)


def block_columns(rows: Sequence[LayerRow]) -> tuple[Quantity, ...]:
    """The same without the parent's, which has a table of its own where there is little room."""
    return tuple(one for one in own_columns(rows) if one.key != PARENT_GAP.key)


def profile_columns(rows: Sequence[LayerRow]) -> tuple[Quantity, ...]:
    """The figures of the peel profile: of the network cut after each layer."""
    return (*cut_columns(rows), *(one for one in layer_columns(rows) if one.key == _DEPTH_GAP))


def profile_figure(one: Quantity, row: LayerRow) -> Estimate | None:
    """The figure of one of the profile's columns."""
    figure: Estimate | None = one.of(row.held_out if one.key in quantities_of(SplitFigures) else row)
    return figure


def refinement_lines(report: AuditReport) -> Iterator[Line]:
    """Lines for the network's table: what refining it gains, with half of the text as well, and its temperature."""
    network = report.network
    if (made := network.refinement) is not None:
        yield _gain("refined, all blocks at once, gains", made.gain)
        if made.half is not None:
            yield _gain("with half of the fit text", made.half, part=True)
    yield _gain(f"a temperature of {network.temperature:.2f} gains", network.temperature_gain)


def _gain(label: str, gain: Estimate, *, part: bool = False) -> Line:
    return Line(label, figure_text(gain, Form.GAP), interval(gain, sign=True), "", part)
