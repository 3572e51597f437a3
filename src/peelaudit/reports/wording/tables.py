"""The figures of a report as tables, before any format draws them: which rows and columns there are, and their words.

All of it comes from the declarations in `records`; a format decides how wide, and in what markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from peelaudit.escape import printable
from peelaudit.records import AuditReport, Estimate, LayerRow, Parent, SplitFigures
from peelaudit.records.quantities import Form, Quantity, quantities_of
from peelaudit.reports.wording.text import interval, number, signed
from peelaudit.reports.wording.words import HEAD_WORDS

__all__ = ["Line", "cut_columns", "figure_text", "glossary", "layer_columns", "network_lines", "with_interval"]

_CUT, _OWN, _PARENT = quantities_of(SplitFigures), quantities_of(LayerRow), quantities_of(Parent)


@dataclass(frozen=True, slots=True)
class Line:
    """A figure of the whole network, as texts: `part` of the one above it; `fit` is empty where there is none."""

    label: str
    held_out: str
    interval: str
    fit: str
    part: bool = False


_OF_A_REFERENCE = ("bound", "gap_total", "gap_layers")
"""Figures that say nothing where no reference is another network."""


def network_lines(report: AuditReport, shorten: Callable[[str], str]) -> Iterator[Line]:
    """The network's losses and gaps in the order of a reader's questions.

    Args:
        report: with them.
        shorten: makes a schedule's name fit.
    """
    network, base = report.network, report.baselines
    head = HEAD_WORDS.get(network.readout, network.readout)
    names = {"readout": printable(head), "best": printable(shorten(network.best_schedule))}
    for key, quantity in _CUT.items():
        ours, fit = quantity.of(network.held_out), quantity.of(network.fit)
        if ours is None or (key == "trained_readout_loss" and network.readout == "own"):
            continue
        if network.gap_layers is None and key in _OF_A_REFERENCE:
            continue
        yield _line(quantity.label.format(**names), ours, fit, form=quantity.form, part=quantity.part)
    if network.rival is not None and network.margin is not None:
        yield _line(f"nearest rival - trained ({shorten(network.rival)})", network.margin, None, form=Form.GAP)
    if report.parent is not None:
        for quantity in _PARENT.values():
            yield _line(quantity.label, quantity.of(report.parent), None, form=quantity.form)
    yield _line("unigram baseline", base.unigram, None)
    yield Line("uniform baseline", number(base.uniform), "", "")


def _line(label: str, held_out: Estimate, fit: Estimate | None, *, form: Form = Form.LOSS, part: bool = False) -> Line:
    fit_text = "" if fit is None else figure_text(fit, form)
    return Line(label, figure_text(held_out, form), interval(held_out, sign=form is Form.GAP), fit_text, part)


def figure_text(figure: Estimate | None, form: Form) -> str:
    """A figure's value, with its sign where it is a difference; empty where there is none."""
    if figure is None:
        return ""
    return signed(figure.value) if form is Form.GAP else number(figure.value)


def with_interval(figure: Estimate | None, form: Form, unit: str = "") -> str:
    """The value, and behind a difference its unit, if that is given, and its interval."""
    if figure is None or form is not Form.GAP:
        return figure_text(figure, form)
    return f"{signed(figure.value)}{unit and f' {unit}'} ({interval(figure, sign=True)})"


def cut_columns(rows: Sequence[LayerRow]) -> tuple[Quantity, ...]:
    """The figures of the network cut after each layer that a table of layers has: what some row has."""
    return _present(_CUT, [row.held_out for row in rows])


def layer_columns(rows: Sequence[LayerRow]) -> tuple[Quantity, ...]:
    """The layers' own figures that a table of layers has: what some row has. The gap is the first."""
    return _present(_OWN, rows)


def _present(
    quantities: Mapping[str, Quantity], records: Sequence[SplitFigures] | Sequence[LayerRow]
) -> tuple[Quantity, ...]:
    return tuple(
        one
        for one in quantities.values()
        if one.column is not None and (not records or any(one.of(record) is not None for record in records))
    )


def glossary(quantities: Iterable[Quantity]) -> str:
    """What each of these figures is, by its header in a table of layers, a sentence each."""
    return " ".join(f"{one.header}: {one.words}." for one in quantities)
