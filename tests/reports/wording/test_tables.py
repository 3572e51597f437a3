"""Which figures a table has, in which order, and how each is written, before any format draws it."""

from __future__ import annotations

import dataclasses

from peelaudit.records import AuditReport, Estimate, LayerRow, SplitFigures
from peelaudit.records.quantities import Form, quantities_of
from peelaudit.reports.wording.tables import (
    Line,
    cut_columns,
    figure_text,
    glossary,
    layer_columns,
    network_lines,
    with_interval,
)
from tests.factories import make_report, with_every_figure

FIGURE = Estimate(0.25, 0.125, 0.5)


def lines_of(report: AuditReport) -> dict[str, Line]:
    return {line.label: line for line in network_lines(report, str.upper)}


def test_the_networks_lines_come_in_the_order_of_a_readers_questions() -> None:
    assert list(lines_of(make_report())) == [
        "trained loss",
        "trained layers, refitted head",
        "YES-0",
        "YES* (DIRECT)",
        "gap_total = trained loss - YES*",
        "gap_head, the readout's part",
        "gap_layers, the layers' part",
        "nearest rival - trained (EVERY:2)",
        "unigram baseline",
        "uniform baseline",
    ]


def test_a_line_has_the_figure_of_both_splits_and_the_interval_of_held_out() -> None:
    report = make_report()
    lines, held_out, fit = lines_of(report), report.network.held_out, report.network.fit
    assert lines["YES-0"].held_out == f"{held_out.yes0.value:.3f}"
    assert lines["YES-0"].interval == f"{held_out.yes0.low:.3f}..{held_out.yes0.high:.3f}"
    assert lines["YES-0"].fit == f"{fit.yes0.value:.3f}"
    assert lines["gap_layers, the layers' part"].held_out == "+0.042"
    assert lines["gap_layers, the layers' part"].interval == "+0.022..+0.060"
    assert lines["uniform baseline"] == Line("uniform baseline", "10.826", "", "")


def test_parts_stand_under_what_they_are_of() -> None:
    assert [line.label.split(",")[0] for line in lines_of(make_report()).values() if line.part] == [
        "trained layers",
        "gap_head",
        "gap_layers",
    ]


def test_under_the_own_head_the_layers_loss_is_not_said_twice() -> None:
    report = make_report()
    own = dataclasses.replace(report, network=dataclasses.replace(report.network, readout="own"))
    assert [label for label in lines_of(own) if label.startswith("trained layers")] == []
    alone = dataclasses.replace(report, network=dataclasses.replace(report.network, rival=None, margin=None))
    assert [label for label in lines_of(alone) if "rival" in label] == []


def test_a_figure_is_written_by_its_form() -> None:
    assert [figure_text(FIGURE, form) for form in Form] == ["0.250", "+0.250", "0.250"]
    assert [figure_text(None, form) for form in Form] == ["", "", ""]


def test_a_difference_has_its_interval_beside_it() -> None:
    assert with_interval(FIGURE, Form.GAP) == "+0.250 (+0.125..+0.500)"
    assert with_interval(FIGURE, Form.GAP, "nats/token") == "+0.250 nats/token (+0.125..+0.500)"
    assert with_interval(FIGURE, Form.LOSS, "nats/token") == "0.250"
    assert with_interval(None, Form.GAP) == ""


def test_a_column_that_no_row_has_is_left_out() -> None:
    rows = make_report().layers
    assert [one.key for one in cut_columns(rows)] == ["trained_readout_loss", "yes0", "bound"]
    assert "scale_slope" not in {one.key for one in layer_columns(rows)}
    full = with_every_figure(make_report()).layers
    assert "distortion" in {one.key for one in cut_columns((*rows, full[0]))}
    assert "scale_slope" in {one.key for one in layer_columns((*rows, full[0]))}


def test_without_rows_every_column_is_there() -> None:
    full = with_every_figure(make_report()).layers
    for columns, kind in ((cut_columns, SplitFigures), (layer_columns, LayerRow)):
        found = [one.key for one in columns(())]
        assert found == [one.key for one in quantities_of(kind).values() if one.column is not None]
        assert found == [one.key for one in columns(full)] or kind is LayerRow
    assert layer_columns(())[0].key == "gap"


def test_the_glossary_has_a_sentence_for_each() -> None:
    columns = layer_columns(make_report().layers)
    text = glossary(columns)
    for one in columns:
        assert f"{one.header}: {one.words}." in text
