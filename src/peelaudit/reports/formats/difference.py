"""Two checkpoints' difference in the formats that it is written in."""

from __future__ import annotations

from collections.abc import Iterator

from peelaudit.records.difference import Difference, PartRow
from peelaudit.records.json import dump
from peelaudit.records.quantities import quantities_of
from peelaudit.records.shapes import check_finite
from peelaudit.reports.formats import Format
from peelaudit.reports.formats.markdown_parts import plain, table
from peelaudit.reports.wording.difference import (
    changed_words,
    cost_text,
    part_label,
    part_note,
    part_weights,
    subject,
    sums,
    tensor_lines,
)

__all__ = ["FORMATS", "export"]

FORMATS = (Format.TABLE, Format.JSON, Format.MARKDOWN, Format.HTML)
"""CSV, JUnit and annotations are of audits."""


def export(found: Difference, form: Format, *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """The difference as one text, ending in a newline.

    Args:
        found: it.
        form: one of `FORMATS`.
        width: of a table's page, as are the others.
        colour: whether it has ANSI colours.
        encoding: what it must be able to go through.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    if form is Format.JSON:
        return dump(found, Difference)
    if form is Format.HTML:
        from peelaudit.reports.formats.html import difference as page

        return page.export(found)
    if form is Format.MARKDOWN:
        check_finite(found)
        return "\n".join(_markdown(found)) + "\n"
    from peelaudit.reports.terminal import render_difference

    return render_difference(found, width=width, colour=colour, encoding=encoding)


def _markdown(found: Difference) -> Iterator[str]:
    yield f"## peelaudit: {plain(found.headline)}"
    yield ""
    yield from (f"- {label.upper()}: {plain(text)}" for label, text in subject(found))
    yield f"- {plain(changed_words(found))}"
    yield from (f"- **broken**: {plain(finding)}" for finding in found.findings)
    yield ""
    lines = ((plain(label.strip()), figure, ends, plain(note)) for label, figure, ends, note in sums(found))
    yield from table(("", "nats/token", "95 %", ""), lines, right=(1, 2))
    yield ""
    yield "### Parts"
    yield ""
    yield from _parts(found)
    yield from _tensors(found)
    if found.warnings:
        yield ""
        yield from (f"- Warning: {plain(warning)}" for warning in found.warnings)


def _parts(found: Difference) -> Iterator[str]:
    """A row for each part, and what the columns are."""
    columns = [one for key, one in quantities_of(PartRow).items() if key != "kl"]
    rows = (
        (
            part_label(row),
            *("" if row.same or (cost := one.of(row)) is None else cost_text(cost) for one in columns),
            "" if row.same else f"{row.kl.value:.4f}",
            part_weights(row),
            plain(part_note(found, place)),
        )
        for place, row in enumerate(found.rows)
    )
    header = ("part", *(f"{one.label} (95 %)" for one in columns), "KL", "weights", "")
    yield from table(header, rows, right=range(1, len(columns) + 3))
    yield ""
    yield plain(" ".join(f"{one.label}: {one.words}." for one in quantities_of(PartRow).values()))


def _tensors(found: Difference) -> Iterator[str]:
    """The tensors that differ, folded away."""
    lines, more = tensor_lines(found)
    if not lines:
        return
    yield ""
    yield f"<details><summary>{len(found.tensors)} tensors differ</summary>"
    yield ""
    rows = ((plain(line.name), line.kind, line.size, line.constant) for line in lines)
    yield from table(("tensor", "kind", "size", "constant"), rows, right=(2, 3))
    if more:
        yield ""
        yield plain(more)
    yield ""
    yield "</details>"
