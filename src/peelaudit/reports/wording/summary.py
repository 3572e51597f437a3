"""A report on one page, as texts: what was audited, the losses as an equation, a row for each layer. No rich here.

Verdict and advice are the report's own sentences; what else a page says stands here, for every format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

from peelaudit.records import AuditReport, Estimate, LayerRow
from peelaudit.reports.wording.text import abbreviate, count, interval, number, signed, size

__all__ = [
    "EVERY_LAYER",
    "LayerLine",
    "Layers",
    "Term",
    "equation",
    "growth_words",
    "is_broken",
    "layer_lines",
    "subject",
]

EVERY_LAYER = 16
"""Up to so many layers each has its row."""

_WHOLE = 0.01  # nats/token that have a whole bar at least, where a report doesn't say what counts as none
_SOURCE = 8  # characters of the text's name at least
_PARENT = 20  # characters of a parent's name
_LEADING = 3  # layers that lose most to their parent's, which have rows in a deep network
_FEW, _MOST = 8, 15  # rows of a deeper network: at least, and however many layers stand out


@dataclass(frozen=True, slots=True)
class Term:
    """A line of the equation, as texts: its label with the sign before it, and a note to stand behind its interval."""

    label: str
    figure: str
    interval: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class LayerLine:
    """A layer's row. `gap` and `interval` are empty where the block wasn't refined alone; `share` is the gap's of the
    largest, 0 … 1, and 0 where the interval isn't clear of 0. `words` are what it looks like, `apart` whether that is
    anything.
    """

    layer: int
    gap: str
    interval: str
    share: float
    words: tuple[str, ...]
    apart: bool


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers' rows in order of depth, a caption above them, and in `rest` the layers that have none; it may be
    empty.
    """

    caption: str
    lines: tuple[LayerLine, ...]
    rest: str


def is_broken(report: AuditReport) -> bool:
    """Whether the network is worse than guessing all tokens alike: no other figure of it means anything then."""
    return report.network.held_out.trained_loss.low > report.baselines.uniform


def subject(report: AuditReport, width: int) -> tuple[str, str]:
    """The checkpoint, and what it is with the text that it was audited on, in `width` columns each."""
    info, data = report.checkpoint, report.data
    step = "" if info.training_step is None else f", step {count(info.training_step)}"
    network = f"{info.layers} layers × {info.width} wide, {size(info.parameters, '')} parameters"
    text = f"{network}; {count(data.held_out.tokens)} tokens held out of "
    room = max(_SOURCE, width - len(text))
    source = data.source if len(data.source) <= room else PurePath(data.source).name
    return abbreviate(info.path, width - len(step)) + step, text + abbreviate(source, room)


def equation(report: AuditReport, shorten: Callable[[str], str]) -> Iterator[Term]:
    """The trained loss = best reference + the head's part + the layers' part; then the nearest peeled one, and the
    parent. Where no reference is another network, what is known without.

    Args:
        report: with them.
        shorten: makes a schedule's name fit.
    """
    figures = report.network.held_out
    yield _loss("  trained loss", figures.trained_loss, "nats/token, 95 %")
    yield from _by_references(report, shorten)
    if (parent := report.parent) is not None:
        name = PurePath(parent.checkpoint.path).name
        yield _difference("  trained loss - its parent's", parent.difference, abbreviate(name, _PARENT))


def _by_references(report: AuditReport, shorten: Callable[[str], str]) -> Iterator[Term]:
    network, figures = report.network, report.network.held_out
    if network.gap_layers is None:
        if network.readout != "own":
            yield _loss("= its layers, another head", figures.bound)
            yield _difference("+ the head's part", figures.gap_head, "gap_head")
        if (gain := network.estimated_gain) is not None:
            yield _difference("  a step of all layers", gain, "gain, estimated")
        return
    yield _loss(f"= best reference, {shorten(network.best_schedule)}", figures.bound)
    if network.readout != "own":
        yield _difference("+ the head's part", figures.gap_head, "gap_head")
    yield _difference("+ the layers' part", network.gap_layers, "gap_layers")
    if network.rival is not None and network.margin is not None:
        place = "ahead of" if network.margin.high < 0 else "behind" if network.margin.low > 0 else "level with"
        yield _difference(f"  nearest peeled, {shorten(network.rival)}", network.margin, f"{place} the trained")


def _loss(label: str, figure: Estimate, note: str = "") -> Term:
    return Term(label, number(figure.value), interval(figure), note)


def _difference(label: str, figure: Estimate, note: str) -> Term:
    return Term(label, signed(figure.value), interval(figure, sign=True), note)


def layer_lines(report: AuditReport, *, every: bool = False) -> Layers:
    """The layers' gaps and looks: all of them, or with more than `EVERY_LAYER` those that stand out and the largest.

    Args:
        report: with them.
        every: whether a deep network has a row for each layer as well.
    """
    rows, better = report.layers, () if report.parent is None else report.parent.better
    named = {*report.named, *better[:_LEADING]}
    if report.refinement is None:
        shown = [row for row in rows if row.symptoms or row.layer in better]
        rest = "" if shown or not rows else "By its looks no layer stands out."
        return Layers(
            "What each layer gains, refined alone, takes --effort default or thorough.", _lines(report, shown), rest
        )
    caption = "What the network gains with one layer refined alone (not to be added up)"
    if not report.refinement.judged:
        caption += "; none is named by it"
    if better:
        caption += "; parent's, with its parent's block instead"
    if every or len(rows) <= EVERY_LAYER:
        return Layers(f"{caption}:", _lines(report, rows), "")
    ranked = sorted(rows, key=lambda row: (row.layer not in named, -_value(row), row.layer))
    shown = ranked[: min(_MOST, max(_FEW, len(named)))]
    return Layers(f"{caption}:", _lines(report, shown), _rest(report, [row for row in rows if row not in shown]))


def _lines(report: AuditReport, rows: list[LayerRow] | tuple[LayerRow, ...]) -> tuple[LayerLine, ...]:
    tolerance = dict(report.settings).get("tolerance")
    none = tolerance if isinstance(tolerance, float) else _WHOLE  # what counts as none has a whole bar at most
    largest = max([none, *map(_value, report.layers)])
    return tuple(_line(report, row, largest) for row in sorted(rows, key=lambda row: row.layer))


def _line(report: AuditReport, row: LayerRow, largest: float) -> LayerLine:
    info, gap = report.refinement, row.gap
    words = tuple(map(str, row.symptoms))
    if info is not None and row.layer in info.named:
        words += ("stands out",)
    if report.parent is not None and row.layer in report.parent.better and row.parent_gap is not None:
        words += (f"parent's {signed(row.parent_gap.value)}",)
    apart = bool(words)
    if not words and info is not None and info.judged:
        words = ("like the others",)
    return LayerLine(
        layer=row.layer,
        gap="" if gap is None else signed(gap.value),
        interval="" if gap is None else interval(gap, sign=True),
        share=max(0.0, _value(row)) / largest if gap is not None and gap.low > 0 else 0.0,
        words=words,
        apart=apart,
    )


def _value(row: LayerRow) -> float:
    return 0.0 if row.gap is None else row.gap.value


def _rest(report: AuditReport, rows: list[LayerRow]) -> str:
    """The layers without a row, in a sentence."""
    least, most = min(map(_value, rows)), max(map(_value, rows))
    apart = sum(row.layer in report.named for row in rows)
    looks = f"; {apart} of them stand out as well" if apart else ""
    return f"The other {count(len(rows))}: {signed(least)} to {signed(most)}{looks}."


def growth_words(report: AuditReport) -> str:
    """What all layers refined together gain with half of the text, and with all; empty where that wasn't tried."""
    refinement = report.network.refinement
    if refinement is None or refinement.half is None:
        return ""
    half, whole = number(refinement.half.value), number(refinement.gain.value)
    return f"All layers refined together gain {half} with half the text, {whole} with all."
