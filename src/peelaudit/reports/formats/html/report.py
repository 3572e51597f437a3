"""One report's section: its tables as data, which `report.html` puts in the order of a reader's questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from peelaudit.records import AuditReport, GateCheck, LayerRow, Outcome
from peelaudit.records import json as json_export
from peelaudit.records.quantities import Form, Quantity
from peelaudit.reports.formats.content import gravest_first
from peelaudit.reports.formats.html.parts import (
    Cell,
    Column,
    Table,
    figure_cell,
    number_cell,
    path_text,
    signed_cell,
    table,
    verdict_cell,
)
from peelaudit.reports.formats.html.pictures import drawn
from peelaudit.reports.formats.html.templates import embedded_json, render
from peelaudit.reports.wording.escape import printable
from peelaudit.reports.wording.tables import cut_columns, layer_columns, network_lines
from peelaudit.reports.wording.text import abbreviate, count, interval, number, targets_text
from peelaudit.reports.wording.words import baseline_warning, bits_words
from peelaudit.settings.command import repeat_command

__all__ = ["checks_table", "section"]

_SCHEDULES_LISTED = 30
_NAME_WIDTH = 28


def section(report: AuditReport, checks: Sequence[GateCheck], *, index: int, level: int) -> Markup:
    """The report's section. `index` tells its identifiers from another's, `level` is that of its headings."""
    return render(
        "report.html",
        report=report,
        index=index,
        level=level,
        worse_than_guessing=baseline_warning(report),
        low_bit=bits_words(report),
        gate=checks_table(checks) if checks else None,
        network=_network(report),
        layers=_layers(report),
        pictures=drawn(report),
        references=_references(report),
        yes=_yes(report) if report.yes else None,
        command=repeat_command(report.settings),
        digests=_digests(report),
        versions=table("Environment", [Column("part"), Column("version")], report.versions),
        settings=_settings(report),
        json=embedded_json(json_export.compact(report)),
    )


def checks_table(checks: Sequence[GateCheck], *, named: bool = False) -> Table:
    """A gate's checks, what fails first; those suppressed stay visible. `named` adds the checkpoint."""
    columns = [
        Column("outcome"),
        *([Column("checkpoint")] if named else []),
        Column("rule"),
        Column("row"),
        Column("figure", right=True),
        Column("limit", right=True),
        Column("reason", wide=True),
    ]
    rows = (
        [
            Cell(_outcome(check), str(index)),
            *([path_text(check.checkpoint)] if named else []),
            check.rule,
            "network" if check.layer is None else Cell(f"layer {check.layer}", str(check.layer)),
            "" if check.figure is None else signed_cell(check.figure),
            "" if check.limit is None else Cell(f"{check.limit:g}", repr(check.limit)),
            check.reason,
        ]
        for index, check in enumerate(gravest_first(checks))
    )
    suppressed = sum(check.outcome is Outcome.SUPPRESSED for check in checks)
    caption = f"{count(len(checks))} checks of the gate, {sum(check.fails for check in checks)} fail"
    return table(f"{caption}, {suppressed} suppressed. Figures and limits in nats/token.", columns, rows, sortable=True)


def _outcome(check: GateCheck) -> str:
    words = "fails" if check.fails else str(check.outcome)
    return words + ("" if check.suppressed is None else f" ({check.suppressed})")


def _network(report: AuditReport) -> Table:
    rows = ([line.label, line.held_out, line.interval, line.fit] for line in network_lines(report, _name))
    columns = [Column("figure"), *(Column(title, right=True) for title in ("held-out", "95 %", "fit"))]
    return table("Losses and gaps of the whole network, nats/token", columns, rows)


def _layers(report: AuditReport) -> Table:
    cut, (gap, *own) = cut_columns(report.layers), layer_columns(report.layers)
    columns = [
        Column("layer", right=True),
        *(_figure_column(one, one.header) for one in (*cut, gap)),
        Column("verdict"),
        Column("best reference"),
        Column("target", right=True),
        *(_figure_column(one, one.label) for one in own),
        Column("in words", wide=True),
    ]
    rows = (_layer_cells(row, cut, gap, own) for row in report.layers)
    return table("A row for each layer: held-out losses and gaps, nats/token", columns, rows, sortable=True)


def _figure_column(one: Quantity, title: str) -> Column:
    return Column(f"{title}{' (95 %)' * (one.form is Form.GAP)}", right=True, explained=f"{one.words}.")


def _layer_cells(row: LayerRow, cut: Sequence[Quantity], gap: Quantity, own: Sequence[Quantity]) -> list[Cell | str]:
    return [
        Cell(str(row.layer), str(row.layer)),
        *(figure_cell(one.of(row.held_out), one.form) for one in cut),
        figure_cell(gap.of(row), gap.form),
        verdict_cell(row.held_out.verdict),
        _name(row.best_schedule),
        Cell(str(row.best_target), str(row.best_target)),
        *(figure_cell(one.of(row), one.form) for one in own),
        row.reading,
    ]


def _references(report: AuditReport) -> Table:
    ranked = sorted(report.schedules, key=lambda schedule: schedule.select.bound.value)
    columns = [
        Column("schedule"),
        Column("fitted to"),
        *(Column(title, right=True) for title in ("select", "held-out", "95 %", "fit")),
    ]
    rows: Iterator[list[Cell | str]] = (
        [
            _name(schedule.name),
            targets_text(schedule.targets, 40),
            number_cell(schedule.select.bound.value),
            number_cell(schedule.held_out.bound.value),
            interval(schedule.held_out.bound),
            number_cell(schedule.fit.bound.value),
        ]
        for schedule in ranked[:_SCHEDULES_LISTED]
    )
    cut = len(ranked) - _SCHEDULES_LISTED
    words = f"References run: {count(len(ranked))}, the best on select first"
    if cut > 0:
        words += f"; {count(cut)} more are in the JSON report"
    return table(f"{words}. Losses in nats/token.", columns, rows, sortable=True)


def _yes(report: AuditReport) -> Table:
    rows = (
        [f"YES-{y.waypoints}", number(y.held_out.value), interval(y.held_out), _name(y.schedule)] for y in report.yes
    )
    columns = [Column("bound"), Column("held-out", right=True), Column("95 %", right=True), Column("schedule")]
    return table("YES-k, the best reference with at most k waypoints, nats/token", columns, rows)


def _digests(report: AuditReport) -> Table:
    rows = [
        ("weights and configuration", report.checkpoint.sha256),
        ("calibration source", report.data.sha256),
        ("tokens of the three splits", report.data.tokens_sha256),
    ]
    return table("Digests, SHA-256", [Column("of"), Column("digest")], rows)


def _settings(report: AuditReport) -> Table:
    rows = [(name.replace("_", "-"), _setting(value)) for name, value in report.settings]
    return table("Settings", [Column("setting"), Column("value")], rows)


def _name(schedule: str) -> str:
    """A schedule's name as far as it fits into a column: an explicit mapping has a number for each layer."""
    return abbreviate(printable(schedule), _NAME_WIDTH)


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(_setting, value)) if isinstance(value, tuple) else str(value)
