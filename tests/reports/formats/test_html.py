"""The HTML report as text: everything escaped, nothing loaded, the JSON inside, what was asked for is there."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
from itertools import pairwise

import pytest

from peelaudit.records import SCHEMA_VERSION, AuditReport, Outcome, Symptom, Unaudited
from peelaudit.records.json import parse_report
from peelaudit.reports.formats import Format, export
from peelaudit.reports.formats import html as page_format
from tests.factories import make_estimate, make_report, with_gaps
from tests.reports.formats.support import BREAKOUT, Page, hostile_report, make_check, make_series


def page_of(*reports: AuditReport, **more) -> Page:
    page = Page(export(reports, Format.HTML, **more))
    assert page.open == []
    return page


@pytest.mark.parametrize("several", [False, True])
def test_nothing_of_a_report_is_acted_upon(several: bool) -> None:
    checks = [make_check(BREAKOUT, rule=BREAKOUT, reason=BREAKOUT)]
    failures = [Unaudited(BREAKOUT, BREAKOUT, BREAKOUT)] if several else []
    page = page_of(hostile_report(BREAKOUT), *([make_report()] if several else []), checks=checks, failures=failures)
    assert not page.all("img")
    assert [script.get("type") for script in page.all("script")].count(None) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert any(BREAKOUT in text for text in page.texts["td"])


@pytest.mark.parametrize("reports", [[make_report()], make_series()], ids=["one", "series"])
def test_nothing_is_loaded(reports: list[AuditReport]) -> None:
    text = export(reports, Format.HTML)
    page = Page(text)
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "action", "background"} & attributes.keys()
        target = attributes.get("href") or "#"
        assert target.startswith("#") or (tag == "link" and target == "data:,")
    urls = set(re.findall(r"https?://[^\s\"'<]*", text))
    assert urls == {"http://www.w3.org/2000/svg"}  # the name of SVG, not a place
    assert "@import" not in text
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    script = hashlib.sha256(text.split("<script>")[1].split("</script>")[0].encode()).digest()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{base64.b64encode(script).decode()}'" in policy


def test_the_json_inside_is_the_report() -> None:
    reports = [hostile_report(BREAKOUT), make_report(path="b.pt")]
    text = export(reports, Format.HTML)
    found = re.findall(r'<script type="application/json" id="report-\d+">(.*?)</script>', text)
    assert {report.checkpoint.path: report for report in map(parse_report, found)} == {
        report.checkpoint.path: report for report in reports
    }
    assert all(json.loads(part)["schema_version"] == SCHEMA_VERSION for part in found)


def test_verdict_and_limits_come_first_in_plain_words() -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", export([make_report()], Format.HTML).split("<main>")[1]))
    positions = [
        text.index(words)
        for words in (
            "peelaudit: runs/tiny/ckpt.pt",
            "red ✗ can do better: its layers by 0.042 nats/token (0.022 to 0.060), shared by all layers.",
            "Train on: the layers",
            "Red means: it loses to YES-0",
            "trust the held-out one",
            "with half of the fit text",
            "a temperature of 1.12 gains",
            "Gap by layer",
            "falls when this block alone is refined",
            "Each layer by itself",
            "Early depths always lose to blocks pointed straight at the last state, in healthy networks too",
            "Depth gap by layer",
            "The network cut after each layer",
            "Peel map",
            "Normalised mean squared error of leaving the block out",
            "15 clusters on held-out",
            "peelaudit run --data wikitext.txt",
            "a1" * 32,
            "2.13.0",
            "not set",
        )
    ]
    assert positions == sorted(positions)


@pytest.mark.parametrize("reports", [[make_report()], [make_report(80)], make_series()], ids=["4", "80", "series"])
def test_it_can_be_read_without_eyes(reports: list[AuditReport]) -> None:
    text = export(reports, Format.HTML)
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    for image in page.all("svg"):
        assert image.get("aria-hidden") == "true" or (image["role"] == "img" and image["aria-label"])
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    narrow = [name for name in names if name is not None]
    assert len(narrow) == len(set(narrow))


def tables(page: Page) -> list[list[list[dict[str, str | None]]]]:
    """The cells' attributes by table and row, headers included."""
    found: list[list[list[dict[str, str | None]]]] = []
    for tag, attributes in page.elements:
        if tag == "table":
            found.append([])
        elif tag == "tr":
            found[-1].append([])
        elif tag in ("th", "td"):
            found[-1][-1].append(attributes)
    return found


def measured_more() -> AuditReport:
    """A report with every column that an audit must be asked for, one of them with a figure missing."""
    report = with_gaps(make_report(), 0.1, 0.2, 0.3, 0.4, named=(4,))
    slopes = [None, *map(make_estimate, (0.1, 0.2, 0.3))]
    rows = [dataclasses.replace(row, scale_slope=one) for row, one in zip(report.layers, slopes, strict=True)]
    return dataclasses.replace(report, layers=tuple(rows))


@pytest.mark.parametrize(
    "reports", [[make_report()], [measured_more()], make_series()], ids=["one", "measured more", "series"]
)
def test_every_row_has_every_column_and_begins_with_its_header(reports: list[AuditReport]) -> None:
    found = tables(page_of(*reports, checks=[make_check(reports[0].checkpoint.path)]))
    assert len(found) > 3
    for table in found:
        rows = [row for row in table if "colspan" not in row[0]]
        assert len({len(row) for row in rows}) == 1
        assert all(row[0]["colspan"] == str(len(rows[0])) for row in table if "colspan" in row[0])
        assert all("scope" in cell for cell in table[0])
        for row in rows[1:]:
            assert ["scope" in cell for cell in row] == [True] + [False] * (len(row) - 1)


def test_figures_are_sorted_unrounded() -> None:
    report = make_report(12)
    page = tables(page_of(report))
    layers = next(table for table in page if len(table) == 13)
    gaps = [row.gap.value for row in report.layers if row.gap is not None]
    assert [float(row[1]["data-v"] or "") for row in layers[1:]] == gaps
    profile = next(table for table in page if len(table) == 25)[1::2]
    assert [float(row[4]["data-v"] or "") for row in profile] == [row.depth_gap.value for row in report.layers]


def test_the_headline_is_the_title_and_stands_under_the_heading() -> None:
    text = export([make_report(headline="can do better: by <a lot>")], Format.HTML)
    assert "<title>peelaudit: red ✗ can do better: by &lt;a lot&gt;</title>" in text
    assert '<span class="v v-red">red ✗</span> can do better: by &lt;a lot&gt;.</p>' in text
    reports = [make_report(path="a.pt", headline="first"), make_report(path="b.pt", headline="second")]
    overview = export(reports, Format.HTML).split("<details")[0]
    notes = re.findall(r'<tr class="note"><td colspan="7">(.*?)</td>', overview)
    assert notes == ["first.", "second."]


def test_layers_that_are_named_stand_out_in_the_first_chart_and_say_why() -> None:
    report = with_gaps(make_report(), 0.1, 0.2, 0.3, 0.4, named=(4,))
    rows = (report.layers[0], dataclasses.replace(report.layers[1], symptoms=(Symptom.NOISY,)), *report.layers[2:])
    text = export([dataclasses.replace(report, layers=rows)], Format.HTML)
    charts = re.findall(r'<svg[^>]*role="img".*?</svg>', text, re.DOTALL)
    assert [chart.count("v-strong") for chart in charts[:2]] == [2, 2]  # wide and narrow
    assert not any("v-strong" in chart for chart in charts[2:])
    assert re.findall(r'<td colspan="\d">(Named: .*?)</td>', text) == ["Named: noisy.", "Named: its gap stands out."]
    assert "a layer that the audit names" in text
    assert "a layer that the audit names" not in export([make_report()], Format.HTML)


def test_no_verdict_colours_a_layer() -> None:
    report = make_report(12)
    assert len({row.held_out.verdict for row in report.layers}) == 4
    text = export([report], Format.HTML)
    assert set(re.findall(r'"v(?: v-|-)(\w+)"', text.split("</style>")[1])) == {"red", "plain"}  # the network's is red


def test_a_report_whose_layers_were_not_refined_says_what_that_needs() -> None:
    report = make_report()
    rows = tuple(dataclasses.replace(row, gap=None) for row in report.layers)
    network = dataclasses.replace(report.network, refinement=None)
    text = export([dataclasses.replace(report, layers=rows, network=network, refinement=None)], Format.HTML)
    assert "layers have no gaps of their own: that needs an audit with --effort default or thorough." in text
    assert "Gap by layer" not in text
    assert "refined, all blocks at once" not in text
    assert "Depth gap by layer" in text


def test_suppressed_checks_stay_visible() -> None:
    checks = [
        make_check(outcome=Outcome.PASSED, reason="fine"),
        make_check(outcome=Outcome.SUPPRESSED, reason="known since May"),
        make_check(outcome=Outcome.FAILED, reason="too far"),
    ]
    text = export([make_report()], Format.HTML, checks=checks)
    assert "3 checks of the gate, 1 fail, 1 suppressed" in text
    assert (
        text.index("too far") < text.index("suppressed (failed)") < text.index("known since May") < text.index("fine")
    )


def test_a_series_is_drawn_and_unrelated_reports_are_not() -> None:
    text = export(make_series(), Format.HTML)
    assert "YES cloud, held-out tokens: 4 checkpoints, steps 0 to 400" in text
    assert "YES cloud, fit tokens, as in the paper: 4 checkpoints" in text
    assert "Gap of 4 layers over 4 steps" in text
    assert "gap_layers over 4 steps with 95 % intervals" in text
    assert "This cloud differs from the held-out one because" in html.unescape(text)
    other = export([make_report(4, path="a.pt"), make_report(6, path="b.pt")], Format.HTML)
    assert "<li>layers is 4 in a.pt and 6 in b.pt</li>" in other
    assert "YES cloud, held-out tokens:" not in other


def test_each_step_is_shown_against_its_own_references() -> None:
    first, *others = make_series()
    first = with_gaps(first, 0.1, 0.2, 0.3, 0.4, named=(4, 2))
    first = dataclasses.replace(first, network=dataclasses.replace(first.network, best_schedule="refined"))
    text = html.unescape(export([first, *others], Format.HTML))
    table = text[text.index("Each step against its own references") :].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[2:]]
    assert [row[0] for row in rows] == ["0", "100", "200", "400"]
    assert rows[0][2:] == ["+0.042 (+0.022..+0.060)", "refined", "every:2", "+0.120 (+0.110..+0.129)", "2, 4"]
    assert [row[-1] for row in rows[1:]] == ["none"] * 3


def test_a_series_without_gaps_of_its_layers_has_no_map_of_them() -> None:
    bare = [
        dataclasses.replace(report, layers=tuple(dataclasses.replace(row, gap=None) for row in report.layers))
        for report in make_series()
    ]
    text = export(bare, Format.HTML)
    assert "gap_layers over 4 steps" in text
    assert "Gap of 4 layers" not in text


def test_a_page_of_very_many_reports_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_format, "MOST_CHARACTERS", most := page_format.MOST_CHARACTERS // 8)
    report = make_report(40)
    reports = [
        dataclasses.replace(report, checkpoint=dataclasses.replace(report.checkpoint, path=f"{index:03}.pt"))
        for index in range(12)
    ]
    text = export(reports, Format.HTML)
    assert len(text) < most * 1.25
    sections = text.count('class="report"')
    assert 0 < sections < 12
    assert f"Cut here: {12 - sections} of 12 checkpoints" in text
    assert all(f"{index:03}.pt" in text for index in range(12))


def test_a_report_of_no_layers_is_a_page() -> None:
    page_of(make_report(layers=(), schedules=(), yes=(), warnings=()))
