"""One report's section: its tables as data, which `report.html` puts in the order of a reader's questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from peelaudit.records import AuditReport, GateCheck, LayerRow, Outcome
from peelaudit.records import json as json_export
from peelaudit.reports.formats.content import gravest_first
from peelaudit.reports.formats.html.parts import (
    Cell,
    Column,
    Table,
    number_cell,
    path_text,
    signed_cell,
    table,
    verdict_cell,
)
from peelaudit.reports.formats.html.pictures import drawn
from peelaudit.reports.formats.html.templates import embedded_json, render
from peelaudit.reports.wording.escape import printable
from peelaudit.reports.wording.text import abbreviate, count, interval, number, signed, targets_text
from peelaudit.reports.wording.words import BITS_ROWS, baseline_warning, bits_words
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
    network, base = report.network, report.baselines
    labels = {
        "trained_loss": "trained loss",
        "trained_readout_loss": f"trained layers, readout {network.readout}",
        "yes0": "YES-0",
        "bound": f"YES* ({_name(network.best_schedule)})",
        "gap_total": "gap_total = trained loss − YES*",
        "gap_head": "gap_head, the readout's part",
        "gap_layers": "gap_layers, the layers' part",
    }
    if network.held_out.distortion is not None:
        labels |= BITS_ROWS
    rows: list[list[Cell | str]] = []
    for name, label in labels.items():
        ours, theirs = getattr(network.held_out, name), getattr(network.fit, name)
        form = signed if name.startswith(("gap", "distortion")) else number
        rows.append([label, form(ours.value), interval(ours, sign=form is signed), form(theirs.value)])
    if network.rival is not None and network.margin is not None:
        label, margin = f"nearest rival − trained ({_name(network.rival)})", network.margin
        rows.append([label, signed(margin.value), interval(margin, sign=True), ""])
    rows.append(["unigram baseline", number(base.unigram.value), interval(base.unigram), ""])
    rows.append(["uniform baseline", number(base.uniform), "", ""])
    columns = [Column("figure"), *(Column(title, right=True) for title in ("held-out", "95 %", "fit"))]
    return table("Losses and gaps of the whole network, nats/token", columns, rows)


def _layers(report: AuditReport) -> Table:
    columns = [
        *(Column(title, right=True) for title in ("layer", "trained", "YES-0", "bound", "gap (95 %)")),
        Column("verdict"),
        Column("best reference"),
        *(Column(title, right=True) for title in ("target", "redundancy", "next block")),
        *((Column("repair gap (95 %)", right=True),) if report.repair else ()),
        *((Column(f"{name} slope (95 %)", right=True) for name in ("scale", "bulk")) if report.has_slopes else ()),
        Column("in words", wide=True),
    ]
    rows = (_layer_cells(report, row) for row in report.layers)
    return table("A row for each layer: held-out losses and gaps, nats/token", columns, rows, sortable=True)


def _layer_cells(report: AuditReport, row: LayerRow) -> list[Cell | str]:
    figures, errors = row.held_out, row.projection_error
    asked_for = [
        *((row.repair_gap,) if report.repair else ()),
        *((row.scale_slope, row.bulk_slope) if report.has_slopes else ()),
    ]
    return [
        Cell(str(row.layer), str(row.layer)),
        number_cell(figures.trained_readout_loss.value),
        number_cell(figures.yes0.value),
        number_cell(figures.bound.value),
        signed_cell(row.gap),
        verdict_cell(figures.verdict),
        _name(row.best_schedule),
        Cell(str(row.best_target), str(row.best_target)),
        number_cell(row.redundancy.value),
        number_cell(errors[1].value) if len(errors) > 1 else "",
        *("" if estimate is None else signed_cell(estimate) for estimate in asked_for),
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
