"""What `peelaudit compare` says: a row for the network and for each layer, and where the change begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.reports.terminal import gate
from peelaudit.reports.terminal.page import draw, pairs, prose, table, verdict_prose
from peelaudit.reports.wording.findings import PARENT_GAP
from peelaudit.reports.wording.tables import glossary
from peelaudit.reports.wording.text import interval, number, signed

if TYPE_CHECKING:
    from peelaudit.reports.compare import Comparison
    from peelaudit.reports.pairing import Change

__all__ = ["render"]

_STYLES = {"new": "bold red", "worse": "red", "missing": "yellow", "fixed": "green", "better": "green"}


def render(comparison: Comparison, *, width: int, colour: bool, encoding: str) -> str:
    """The comparison as text; see `peelaudit.reports.terminal.render_comparison`."""
    return draw(_parts(comparison), width=width, colour=colour, encoding=encoding)


def _parts(comparison: Comparison) -> Iterator[RenderableType]:
    base = verdict_prose(comparison.base_verdict, comparison.base_headline)
    new = verdict_prose(comparison.new_verdict, comparison.new_headline)
    both = (("base", prose(comparison.base)), ("", base), ("new", prose(comparison.new)), ("", new))
    yield pairs(both, label_width=4)
    yield Text("")
    yield _rows(comparison)
    words = (
        "Held-out, new - base, in nats/token, paired on the same tokens. loss: blocks 1 to k alone, the model's own "
        "head; gap: trained states less the best reference's. worse, better: the loss's whole interval is beyond "
        f"{comparison.tolerance:g}; new, fixed: so is the gap's, and the row has begun or ceased to lose to a "
        "reference. *: block k has the same weights in both."
    )
    yield prose((words, "dim"))
    if any(row.parent_gap for row in comparison.rows):
        yield Text("")
        yield _against(comparison)
        yield prose((glossary([PARENT_GAP]), "dim"))
    yield Text("")
    yield prose(comparison.origin.words)
    if comparison.checks:
        yield from gate.parts(comparison.checks)


def _rows(comparison: Comparison) -> Table:
    grid = table()
    grid.add_column("k", justify="right", no_wrap=True)
    for name in ("loss", "was", "change", "95 %", "gap by", "95 %"):
        grid.add_column(name, justify="right", no_wrap=True, min_width=6)
    grid.add_column("status", no_wrap=True)
    for row in comparison.rows:
        label = "network" if row.layer is None else f"{row.layer}{'*' if row.same_weights else ' '}"
        status = Text(f" {row.status}", _STYLES.get(row.status, ""))
        grid.add_row(label, *_loss(row.trained_loss), *_change(row.gap_layers), status)
        if row.layer is None:
            grid.add_section()
    return grid


def _against(comparison: Comparison) -> Table:
    """What each layer loses to the parent's, in both."""
    grid = table()
    for name in ("k", PARENT_GAP.header, "was", "change", "95 %"):
        grid.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        if (gap := row.parent_gap) is not None:
            grid.add_row(str(row.layer), signed(gap.new.value), signed(gap.base.value), *_change(gap))
    return grid


def _loss(change: Change | None) -> tuple[str, ...]:
    if change is None:
        return "", "", "", ""
    return number(change.new.value), number(change.base.value), *_change(change)


def _change(change: Change | None) -> tuple[str, str]:
    return ("", "") if change is None else (signed(change.difference.value), interval(change.difference, sign=True))
