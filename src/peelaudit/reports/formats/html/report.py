"""One report's section: its tables as data, which `report.html` puts in the order of a reader's questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from peelaudit.records import AuditReport, GateCheck, LayerRow, Outcome
from peelaudit.records import json as json_export
from peelaudit.records.quantities import Form, Quantity, quantities_of
from peelaudit.reports.formats.content import gravest_first
from peelaudit.reports.formats.html.parts import (
    Cell,
    Column,
    Table,
    figure_cell,
    number_cell,
    path_text,
    schedule_name,
    settings_table,
    signed_cell,
    table,
)
from peelaudit.reports.formats.html.pictures import drawn
from peelaudit.reports.formats.html.templates import embedded_json, render
from peelaudit.reports.wording.findings import (
    PARENT_GAP,
    block_columns,
    layer_note,
    profile_columns,
    profile_figure,
    refinement_lines,
)
from peelaudit.reports.wording.tables import glossary, network_lines
from peelaudit.reports.wording.text import VERDICT_WORDS, count, interval, number, targets_text
from peelaudit.reports.wording.words import baseline_warning, bits_words, front_words, parent_words, share_words
from peelaudit.settings.command import repeat_command

__all__ = ["checks_table", "section"]

_OWN = quantities_of(LayerRow)
_GAP = _OWN["gap"]
_SCHEDULES_LISTED = 30


def section(report: AuditReport, checks: Sequence[GateCheck], *, index: int, level: int) -> Markup:
    """The report's section. `index` tells its identifiers from another's, `level` is that of its headings."""
    return render(
        "report.html",
        report=report,
        index=index,
        level=level,
        worse_than_guessing=baseline_warning(report),
        low_bit=bits_words(report),
        front=front_words(report.data),
        parent=parent_words(report),
        shares=share_words(report.data),
        sign=VERDICT_WORDS[report.verdict][0],
        best=schedule_name(report.network.best_schedule),
        tolerance=dict(report.settings).get("tolerance"),
        gap_needs=_GAP.needs,
        own_glossary=" ".join(f"{one.label}: {one.words}." for one in block_columns(report.layers)),
        profile_glossary=glossary(profile_columns(report.layers)),
        gate=checks_table(checks) if checks else None,
        network=_network(report),
        layers=_layers(report),
        against=_against(report),
        profile=_profile(report),
        pictures=drawn(report),
        references=_references(report),
        yes=_yes(report) if report.yes else None,
        command=repeat_command(report.settings),
        digests=_digests(report),
        versions=table("Environment", [Column("part"), Column("version")], report.versions),
        settings=settings_table(report.settings),
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
    lines = (*network_lines(report, schedule_name), *refinement_lines(report))
    rows = ([line.label, line.held_out, line.interval, line.fit] for line in lines)
    columns = [Column("figure"), *(Column(title, right=True) for title in ("held-out", "95 %", "fit"))]
    return table("Losses and gaps of the whole network, nats/token", columns, rows, stacked=True)


def _layers(report: AuditReport) -> Table:
    """What each block by itself shows; why a layer is named, under its row."""
    own = block_columns(report.layers)
    columns = [Column("layer", right=True), *map(_figure_column, own)]
    rows = ([_layer(row), *(figure_cell(one.of(row), one.form) for one in own)] for row in report.layers)
    notes = (layer_note(report, row) for row in report.layers)
    caption = "Each layer by itself, held-out; gaps and slopes in nats/token"
    return table(caption, columns, rows, sortable=True, stacked=True, notes=notes)


def _against(report: AuditReport) -> Table | None:
    """What each layer loses to its parent's; None where it was held against none."""
    found = [(row, row.parent_gap) for row in report.layers if row.parent_gap is not None]
    if not found:
        return None
    columns = [Column("layer", right=True), _figure_column(PARENT_GAP)]
    rows = ([_layer(row), signed_cell(gap)] for row, gap in found)
    caption = f"{PARENT_GAP.label}: {PARENT_GAP.words}, held-out, nats/token"
    return table(caption, columns, rows, sortable=True)


def _profile(report: AuditReport) -> Table:
    """The network cut after each layer; what that says in words, under its row."""
    figures = profile_columns(report.layers)
    columns = [
        Column("layer", right=True),
        *map(_figure_column, figures),
        Column("best reference"),
        Column("target", right=True),
    ]
    rows = (
        [
            _layer(row),
            *(figure_cell(profile_figure(one, row), one.form) for one in figures),
            schedule_name(row.best_schedule),
            Cell(str(row.best_target), str(row.best_target)),
        ]
        for row in report.layers
    )
    notes = (row.reading for row in report.layers)
    caption = "The network cut after each layer: held-out losses and gaps, nats/token"
    return table(caption, columns, rows, sortable=True, stacked=True, notes=notes)


def _layer(row: LayerRow) -> Cell:
    return Cell(str(row.layer), str(row.layer))


def _figure_column(one: Quantity) -> Column:
    title = one.label if one.key in _OWN else one.header
    return Column(f"{title}{' (95 %)' * (one.form is Form.GAP)}", right=True, explained=f"{one.words}.")


def _references(report: AuditReport) -> Table:
    ranked = sorted(report.schedules, key=lambda schedule: schedule.select.bound.value)
    columns = [
        Column("schedule"),
        Column("fitted to"),
        *(Column(title, right=True) for title in ("select", "held-out", "95 %", "fit")),
    ]
    rows: Iterator[list[Cell | str]] = (
        [
            schedule_name(schedule.name),
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
        [f"YES-{y.waypoints}", number(y.held_out.value), interval(y.held_out), schedule_name(y.schedule)]
        for y in report.yes
    )
    columns = [Column("bound"), Column("held-out", right=True), Column("95 %", right=True), Column("schedule")]
    return table("YES-k, the best reference with at most k waypoints, nats/token", columns, rows)


def _digests(report: AuditReport) -> Table:
    rows = [
        ("weights and configuration", report.checkpoint.sha256),
        ("calibration source", report.data.sha256),
        ("tokens of the three splits", report.data.tokens_sha256),
    ]
    if report.parent is not None:
        rows.append(("its parent's weights and configuration", report.parent.checkpoint.sha256))
    return table("Digests, SHA-256", [Column("of"), Column("digest")], rows)
