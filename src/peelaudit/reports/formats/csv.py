"""The CSV export: one row per layer of each report, its last the network's own. For spreadsheets and data frames.

An estimate has three columns: `gap.value`, `gap.low`, `gap.high`. Of the peel map's row the first two entries are here,
`projection_error.own` (onto the state after the layer itself) and `projection_error.next`; JSON has them all,
and the sums per cluster, which are not here. `verdict` and `headline` are the network's, in each of its rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from peelaudit.escape import printable
from peelaudit.records import AuditReport, Estimate, LayerRow, SplitFigures
from peelaudit.records.quantities import quantities_of
from peelaudit.records.shapes import record
from peelaudit.reports.formats.content import Content

__all__ = ["export", "networks"]

_ROW = record(LayerRow)
_OPTIONAL = tuple(field.name for field in record(SplitFigures).fields if field.optional)
_LATER = tuple(field.name for field in _ROW.fields if field.optional and field.name in quantities_of(LayerRow))
"""A layer's figures that not every audit has: their columns stand last."""
_NO_ESTIMATE = {"value": None, "low": None, "high": None}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def export(content: Content) -> str:
    """The reports' layers as CSV text (UTF-8, comma, one header line).

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    content.check_finite()
    return _written([_row(report, index) for report in content.reports for index in range(len(report.layers))])


def networks(reports: Iterable[AuditReport]) -> str:
    """The same columns for the last layer of each report, the network's own: a line a report.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    return _written([_row(report, len(report.layers) - 1) for report in reports])


def _written(rows: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0] if rows else [])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _row(report: AuditReport, index: int) -> dict[str, object]:
    """One layer's cells by column name."""
    row = report.layers[index]
    data = _ROW.encode(row, f"layers[{index}]")
    for name in ("projection_error", "held_out_sums", "parent_sums", "signs", "symptoms", *_LATER):
        del data[name]
    errors = (*row.projection_error[:2], None, None)
    return {
        "checkpoint": report.checkpoint.path,
        "checkpoint_sha256": report.checkpoint.sha256,
        "training_step": report.checkpoint.training_step,
        "verdict": str(report.verdict),
        "headline": report.headline,
        **dict(_flat(data, "")),
        **_error_cells("projection_error.own", errors[0]),
        **_error_cells("projection_error.next", errors[1]),
        **{column: cell for name in _LATER for column, cell in _error_cells(name, getattr(row, name)).items()},
        "symptoms": "; ".join(row.symptoms),
        "named": row.layer in report.named,
        "parent": None if report.parent is None else report.parent.checkpoint.path,
    }


def _flat(data: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(data, dict):
        for key, value in data.items():
            if key in _OPTIONAL and value is None:  # the columns are the same whether or not it is there
                value = _NO_ESTIMATE
            yield from _flat(value, f"{name}.{key}" if name else key)
    else:
        yield name, data


def _error_cells(name: str, error: Estimate | None) -> dict[str, object]:
    return {f"{name}.{part}": None if error is None else getattr(error, part) for part in ("value", "low", "high")}


def _cell(value: object) -> object:
    """A text that no spreadsheet takes for a formula; numbers as they are."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return "'" + text if text.startswith(_FORMULA_STARTS) else text
