"""Every format: a text that ends in a newline, hostile names harmless, nothing that isn't finite."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import math
import re
import subprocess
import sys

import pytest

from peelaudit.errors import ConfigError, NonFiniteResult
from peelaudit.records import AuditReport, BaselineLosses, Estimate, Unaudited, Verdict
from peelaudit.reports.formats import Format, export
from tests.factories import make_estimate, make_report, with_gaps, with_parent
from tests.places import ROOT
from tests.reports.formats.support import HOSTILE, hostile_report, make_check, make_step
from tests.variants import uncompared, unfitted


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("n_layers", [4, 80])
def test_every_format_has_an_exporter(form: Format, n_layers: int) -> None:
    text = export([make_report(n_layers)], form)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("form", [form for form in Format if form is not Format.JSON])
def test_several_reports_are_one_text_that_names_each(form: Format) -> None:
    reports = [make_report(path="runs/first.pt"), make_report(path="runs/second.pt")]
    text = export(reports, form)
    assert text.endswith("\n")
    assert "runs/first.pt" in text
    assert "runs/second.pt" in text


@pytest.mark.parametrize("form", [Format.HTML, Format.JUNIT, Format.GITHUB, Format.MARKDOWN, Format.TABLE])
def test_what_was_not_audited_is_named(form: Format) -> None:
    failure = Unaudited("runs/bad.pt", "MalformedCheckpoint", "the zip is cut off")
    text = export([make_report(path="runs/good.pt")], form, failures=[failure])
    assert "runs/bad.pt" in text
    assert "MalformedCheckpoint" in text
    assert "the zip is cut off" in text


def test_json_holds_one_report() -> None:
    with pytest.raises(ConfigError, match="json holds one report, not 2"):
        export([make_report(), make_report()], Format.JSON)


@pytest.mark.parametrize("form", [form for form in Format if form is not Format.JSON])
def test_a_series_without_yes_0_is_told_without_it(form: Format) -> None:
    series = [unfitted(make_step(step, path=f"run/ckpt-{step}.pt")) for step in (0, 100)]
    text = export(series, form)
    assert text.endswith("\n")
    assert "None" not in text


@pytest.mark.parametrize("form", [Format.TABLE, Format.HTML, Format.MARKDOWN, Format.GITHUB])
def test_a_gap_that_is_0_by_definition_is_told_nowhere(form: Format) -> None:
    series = []
    for step in (0, 100):
        report = make_step(step, verdict=Verdict.GREY, path=f"run/ckpt-{step}.pt")
        held_out = dataclasses.replace(report.network.held_out, gap_layers=make_estimate(0.4321))
        network = dataclasses.replace(report.network, held_out=held_out)
        series.append(dataclasses.replace(report, network=network))
    # the page has the whole report as JSON too
    told, quiet = (
        re.sub("<script.*?</script>", "", export(one, form), flags=re.DOTALL)
        for one in (series, [uncompared(report) for report in series])
    )
    assert "0.432" in told
    assert "0.432" not in quiet


@pytest.mark.parametrize("form", [form for form in Format if form is not Format.JSON])
def test_of_several_reports_the_one_with_a_nan_is_told(form: Format) -> None:
    bad = make_report(baselines=BaselineLosses(math.nan, make_estimate(1.0)))
    with pytest.raises(NonFiniteResult, match=r"reports\[1\]\.baselines\.uniform is nan"):
        export([make_report(), bad], form)


@pytest.mark.parametrize("form", [form for form in Format if form is not Format.JSON])
def test_a_check_with_a_nan_is_no_check(form: Format) -> None:
    check = make_check(figure=Estimate(0.1, 0.0, math.inf))
    with pytest.raises(NonFiniteResult, match=r"checks\[0\]\.figure\.high is inf"):
        export([make_report()], form, checks=[check])


def test_the_same_reports_give_the_same_bytes() -> None:
    for form in Format:
        assert export([make_report(8)], form) == export([make_report(8)], form)


def test_no_suffix_stands_for_two_formats() -> None:
    suffixes = [suffix for form in Format for suffix in form.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)


def test_a_format_waits_for_no_other() -> None:
    code = "import sys\nfrom peelaudit.reports.formats import Format, export\nfrom tests.factories import make_report\n"
    code += "export([make_report()], Format.JSON)\nprint(sorted({'rich', 'jinja2'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("form", Format)
def test_no_format_is_written_with_a_nan(form: Format) -> None:
    report = make_report()
    row = dataclasses.replace(report.layers[1], redundancy=Estimate(0.0, math.nan, 0.0))
    with pytest.raises(NonFiniteResult, match=r"layers\[1\]\.redundancy\.low"):
        export([dataclasses.replace(report, layers=(report.layers[0], row, *report.layers[2:]))], form)


@pytest.mark.parametrize("form", Format)
def test_control_characters_are_spelt_out(form: Format) -> None:
    text = export([hostile_report(HOSTILE)], form, checks=[make_check(HOSTILE, reason=HOSTILE, rule=HOSTILE)])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)


def rows_of(report: AuditReport) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(export([report], Format.CSV))))


def test_csv_has_a_row_per_layer_with_numbers_as_they_are() -> None:
    report = make_report(4)
    rows = rows_of(report)
    assert [row["layer"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[3]["held_out.gap_layers.low"]) == report.network.held_out.gap_layers.low
    assert float(rows[2]["gap.value"]) == report.layers[2].gap.value
    assert rows[0]["held_out.verdict"] in list(Verdict)
    assert float(rows[0]["projection_error.next.value"]) == report.layers[0].projection_error[1].value
    assert rows[3]["projection_error.next.value"] == ""


def test_csv_cells_are_no_formulas() -> None:
    assert rows_of(make_report(path="=1+1"))[0]["checkpoint"] == "'=1+1"
    for row in rows_of(hostile_report(HOSTILE)):
        assert row["checkpoint"].startswith("'=cmd")
        assert row["reading"].startswith("'=cmd")


def test_csv_of_no_layers_is_empty() -> None:
    assert export([make_report(layers=())], Format.CSV) == "\n"


def test_markdown_tables_hold_together() -> None:
    text = export([hostile_report(HOSTILE)], Format.MARKDOWN)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 4
    for block in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "<b>" not in text.replace("\\<b", "")


def test_markdown_says_the_verdicts() -> None:
    text = export([make_report(verdict=Verdict.YELLOW, paper_verdict=Verdict.GREEN)], Format.MARKDOWN)
    assert text.startswith("## peelaudit: yellow \\! can do better: its layers by 0.042 nats/token (0.022 to 0.060), ")
    assert "green ✓ effective" in text
    assert "| ---: |" in text


@pytest.mark.parametrize("form", [Format.TABLE, Format.HTML, Format.MARKDOWN])
def test_what_people_read_says_how_close_the_nearest_rival_is(form: Format) -> None:
    text = export([make_report()], form)
    assert "nearest rival" in text
    assert "every:2" in text
    alone = dataclasses.replace(make_report().network, rival=None, margin=None)
    assert "nearest rival" not in export([make_report(network=alone)], form)


@pytest.mark.parametrize("form", [Format.HTML, Format.MARKDOWN, Format.GITHUB, Format.JUNIT, Format.CSV, Format.JSON])
def test_every_format_says_the_headline(form: Format) -> None:
    report = make_report(headline="can do better: the gap of layer 2 stands out")
    assert report.headline in export([report], form)


@pytest.mark.parametrize("form", [Format.MARKDOWN, Format.HTML, Format.CSV, Format.JUNIT])
def test_layers_own_gaps_are_shown_where_there_are_some(form: Format) -> None:
    found = export([with_gaps(make_report(), 0.123, 0.234, 0.345, 0.456, named=(4,))], form)
    assert all(f"0.{gap}" in found for gap in ("123", "234", "345", "456"))
    assert ("True" if form is Format.CSV else "Named: its gap stands out.") in found


@pytest.mark.parametrize("form", [Format.MARKDOWN, Format.HTML])
def test_the_peel_profile_accuses_no_layer(form: Format) -> None:
    text = export([make_report()], form)
    assert "in healthy networks too: the profile accuses no layer." in text


@pytest.mark.parametrize("form", [Format.MARKDOWN, Format.HTML])
def test_growth_and_temperature_are_among_the_networks_figures(form: Format) -> None:
    report = make_report()
    text = export([report], form)
    assert "refined, all blocks at once, gains" in text
    assert "with half of the fit text" in text
    assert "a temperature of 1.12 gains" in text
    assert report.network.refinement is not None
    alone = dataclasses.replace(report.network, refinement=dataclasses.replace(report.network.refinement, half=None))
    assert "half of the fit text" not in export([make_report(network=alone)], form)


def test_csv_has_the_networks_verdict_in_each_row_and_which_layers_are_named() -> None:
    rows = rows_of(with_gaps(make_report(verdict=Verdict.YELLOW), 0.1, 0.2, 0.3, 0.4, named=(4,)))
    assert [row["verdict"] for row in rows] == ["yellow"] * 4
    assert [row["named"] for row in rows] == ["False", "False", "False", "True"]


def test_the_parent_is_told_with_its_fingerprint_and_a_layer_that_loses_to_it() -> None:
    report = with_parent(make_report(), 0.1, 0.0, 0.2, -0.1, better=(3,))
    for form in (Format.HTML, Format.MARKDOWN, Format.TABLE):
        text = html.unescape(export([report], form)).replace("\\", "")
        assert "runs/float" in text
        assert "d4" * 8 in text
        assert "parent's block does better" in text
    assert "d4" * 32 in export([report], Format.HTML)
    rows = list(csv.DictReader(io.StringIO(export([report], Format.CSV))))
    assert [round(float(row["parent_gap.value"]), 6) for row in rows] == [0.1, 0.0, 0.2, -0.1]
    assert {row["parent"] for row in rows} == {"runs/float"}
