"""Two checkpoints' difference as an HTML page: headline, what broke, the losses, a chart and a row for each part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peelaudit.records import Estimate
from peelaudit.records.difference import Difference, PartKind, PartRow
from peelaudit.records.json import dump
from peelaudit.records.quantities import Form, quantities_of
from peelaudit.records.shapes import check_finite
from peelaudit.reports.formats.charts import Mark, whiskers
from peelaudit.reports.formats.html.page import page
from peelaudit.reports.formats.html.parts import Cell, Column, Figure, Table, figure, path_text, settings_table, table
from peelaudit.reports.formats.html.pictures import standing_out
from peelaudit.reports.formats.html.templates import embedded_json, render
from peelaudit.reports.wording.difference import (
    TensorLine,
    changed_words,
    cost_text,
    part_label,
    part_note,
    part_weights,
    subject,
    sums,
    tensor_lines,
)
from peelaudit.settings.command import repeat_difference

__all__ = ["export"]

_PARTS = quantities_of(PartRow)
_SHORT = {PartKind.EMBEDDING: "emb.", PartKind.TIED: "emb.", PartKind.NORM: "norm", PartKind.HEAD: "head"}


@dataclass(frozen=True, slots=True)
class _Pictures:
    """What each part costs in BASE, and how far it moves BASE's predictions."""

    cost: Figure
    kl: Figure


def export(found: Difference) -> str:
    """The difference as an HTML page.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    check_finite(found)
    lines, more = tensor_lines(found)
    body = render(
        "difference.html",
        found=found,
        subject=tuple(subject(found)),
        changed=changed_words(found),
        sums=_sums(found),
        pictures=None if all(row.same for row in found.rows) else _pictures(found),
        glossary=" ".join(f"{one.label}: {one.words}." for one in _PARTS.values()),
        parts=_parts(found),
        configuration=_configuration(found) if found.configuration else None,
        tensors=_tensors(lines) if lines else None,
        more=more,
        digests=_digests(found),
        versions=table("Environment", [Column("part"), Column("version")], found.versions),
        command=repeat_difference(found.settings),
        settings=settings_table(found.settings),
        json=embedded_json(dump(found, Difference)),
    )
    names = " and ".join(path_text(info.path) for info in (found.base, found.new))
    return page(f"peelaudit: {found.headline}", f"peelaudit: {names}", body)


def _sums(found: Difference) -> Table:
    columns = [Column(""), Column("nats/token", right=True), Column("95 %", right=True), Column("", wide=True)]
    rows = ([label.strip(), *rest] for label, *rest in sums(found))
    return table("What single swaps add up to, and what is left over", columns, rows, stacked=True)


def _pictures(found: Difference) -> _Pictures:
    legend = standing_out("a part that stands out by how far it moves BASE's predictions") if found.named else ()

    def drawn(key: str, of: Callable[[PartRow], Estimate], words: Callable[[Estimate], str]) -> Figure:
        one = _PARTS[key]
        marks = [
            Mark(
                _SHORT.get(row.part, str(row.layer)),
                of(row),
                f"{row.name}: {words(of(row))}",
                stands_out=place in found.named,
            )
            for place, row in enumerate(found.rows)
        ]
        title = f"{one.label} by part with 95 % intervals, {len(marks)} parts, nats/token; the numbers are in the table"
        unit = f"{one.label}, nats/token"
        return figure(
            lambda width: whiskers(marks, title=title, unit=unit, width=width, axis="block, and what is around them"),
            f"{one.label}: {one.words}.",
            legend,
        )

    return _Pictures(
        drawn("in_base", lambda row: row.in_base, cost_text),
        drawn("kl", lambda row: row.kl, lambda kl: f"{kl.value:.4f} ({kl.low:.4f}..{kl.high:.4f})"),
    )


def _parts(found: Difference) -> Table:
    """A row for each part; why it stands out, under it."""
    kinds = ("in_base", "kl", "in_new", "so_far")
    columns = [
        Column("part"),
        *(Column(_title(key), right=True, explained=f"{_PARTS[key].words}.") for key in kinds),
        Column("weights", right=True, explained="the size of the difference of its weights."),
    ]
    rows = (
        [
            Cell(part_label(row), str(place)),
            *("" if row.same else _figure(getattr(row, key), key) for key in kinds),
            Cell(part_weights(row), repr(row.weights)),
        ]
        for place, row in enumerate(found.rows)
    )
    notes = (part_note(found, place) for place in range(len(found.rows)))
    caption = f"What each part does, nats/token, on {found.swapped.sequences} of {found.swapped.of} sequences"
    return table(caption, columns, rows, sortable=True, stacked=True, notes=notes)


def _figure(estimate: Estimate | None, key: str) -> Cell | str:
    if estimate is None:
        return ""
    text = f"{estimate.value:.4f}" if _PARTS[key].form is Form.LOSS else cost_text(estimate)
    return Cell(text, repr(float(estimate.value)))


def _title(key: str) -> str:
    return f"{_PARTS[key].label}{' (95 %)' * (_PARTS[key].form is Form.GAP)}"


def _configuration(found: Difference) -> Table:
    rows = ([one.key, one.base, one.new] for one in found.configuration)
    return table("Keys by which something else is computed", [Column("key"), Column("BASE"), Column("NEW")], rows)


def _tensors(lines: Sequence[TensorLine]) -> Table:
    columns = [Column("tensor"), Column("kind"), Column("size", right=True), Column("constant", right=True)]
    rows = ([line.name, line.kind, line.size, line.constant] for line in lines)
    caption = "size: of the difference, over that of both; constant: what was added, or the factor"
    return table(caption, columns, rows, stacked=True)


def _digests(found: Difference) -> Table:
    rows = [
        ("BASE's weights and configuration", found.base.sha256),
        ("NEW's weights and configuration", found.new.sha256),
        ("calibration source", found.data.sha256),
        ("tokens", found.data.tokens_sha256),
    ]
    return table("Digests, SHA-256", [Column("of"), Column("digest")], rows)
