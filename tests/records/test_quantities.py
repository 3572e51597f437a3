"""What a figure is stands once, and every format, the schema and the gate go by it."""

from __future__ import annotations

import html
import typing

import pytest

from peelaudit.errors import ConfigError
from peelaudit.records import AuditReport, Estimate, LayerRow, SplitFigures
from peelaudit.records.json import schema
from peelaudit.records.quantities import Form, Quantity, quantities_of
from peelaudit.reports.formats import Format, export
from peelaudit.reports.terminal import render_report
from peelaudit.settings.rules import parse_rule
from tests.factories import make_report, with_every_figure

OWN = quantities_of(LayerRow)
CUT = quantities_of(SplitFigures)
COLUMNS = [one for one in (*CUT.values(), *OWN.values()) if one.column is not None]


@pytest.fixture(scope="module")
def report() -> AuditReport:
    return with_every_figure(make_report())


@pytest.mark.parametrize("kind", [LayerRow, SplitFigures])
def test_every_estimate_of_a_row_says_what_it_is(kind: type) -> None:
    hints = typing.get_type_hints(kind)
    estimates = {name for name, hint in hints.items() if hint in (Estimate, Estimate | None, tuple[Estimate, ...])}
    assert quantities_of(kind).keys() == estimates


@pytest.mark.parametrize("one", COLUMNS, ids=lambda one: one.key)
def test_every_figure_of_a_layer_is_in_every_format(one: Quantity, report: AuditReport) -> None:
    """By its header or its label, and what it is in words where there is room for words."""
    names = (one.header, one.label)
    for form in (Format.MARKDOWN, Format.HTML, Format.JUNIT):
        assert any(name in html.unescape(export([report], form)) for name in names), form
    assert one.words in export([report], Format.MARKDOWN).replace("\\", "")
    assert one.words in html.unescape(export([report], Format.HTML))
    terminal = " ".join(render_report(report, full=True).split())
    assert one.header in terminal
    assert one.words in terminal
    columns = export([report], Format.CSV).splitlines()[0]
    assert f"{one.key}." in columns


@pytest.mark.parametrize("kind", [LayerRow, SplitFigures])
def test_the_schema_describes_every_figure(kind: type) -> None:
    properties = schema()["$defs"][kind.__name__]["properties"]
    for key, one in quantities_of(kind).items():
        if one.item is None:
            assert properties[key]["description"].startswith(one.words)
            assert ("nats/token" in properties[key]["description"]) == (one.form is not Form.RATIO)


@pytest.mark.parametrize("one", [*CUT.values(), *OWN.values()], ids=lambda one: one.key)
def test_a_gate_may_limit_those_that_say_so(one: Quantity) -> None:
    rule = f"layer.{one.key}=0.1"
    if one.gated:
        assert parse_rule(rule).metric == one.key
    elif one.key != "gap":  # which is short for gap_layers
        with pytest.raises(ConfigError, match="there is no"):
            parse_rule(rule)


def test_a_figure_among_several_is_none_where_there_are_fewer() -> None:
    one = OWN["projection_error"]
    row = make_report().layers[-1]
    assert len(row.projection_error) == 1
    assert one.of(row) is None
