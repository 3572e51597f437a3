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

from peelaudit.records import AuditReport, Outcome, Unaudited
from peelaudit.records.json import parse_report
from peelaudit.reports.formats import Format, export
from peelaudit.reports.formats.html import MOST_CHARACTERS
from tests.factories import make_estimate, make_report, with_repairs
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
    assert all(json.loads(part)["schema_version"] == 1 for part in found)


def test_verdict_and_limits_come_first_in_plain_words() -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", export([make_report()], Format.HTML).split("<main>")[1]))
    positions = [
        text.index(words)
        for words in (
            "peelaudit: red ✗ ineffective",
            "on held-out tokens: it loses to YES-0",
            "not a proof of optimality",
            "trust the held-out one",
            "Gap by layer",
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
    report = with_repairs(make_report(), 0.1, 0.2, 0.3, 0.4, named=(4,))
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
        assert len({len(row) for row in table}) == 1
        assert all("scope" in cell for cell in table[0])
        for row in table[1:]:
            assert ["scope" in cell for cell in row] == [True] + [False] * (len(row) - 1)


def test_figures_are_sorted_unrounded() -> None:
    report = make_report(12)
    layers = next(table for table in tables(page_of(report)) if len(table) == 13)
    assert [float(row[4]["data-v"] or "") for row in layers[1:]] == [row.gap.value for row in report.layers]


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
    other = export([make_report(4, path="a.pt"), make_report(6, path="b.pt")], Format.HTML)
    assert "<li>layers is 4 in a.pt and 6 in b.pt</li>" in other
    assert "YES cloud, held-out tokens:" not in other


def test_a_page_of_very_many_reports_is_cut_and_says_so() -> None:
    report = make_report(80)
    reports = [
        dataclasses.replace(report, checkpoint=dataclasses.replace(report.checkpoint, path=f"{index:03}.pt"))
        for index in range(40)
    ]
    text = export(reports, Format.HTML)
    assert len(text) < MOST_CHARACTERS * 1.25
    sections = text.count('class="report"')
    assert 0 < sections < 40
    assert f"Cut here: {40 - sections} of 40 checkpoints" in text
    assert all(f"{index:03}.pt" in text for index in range(40))


def test_a_report_of_no_layers_is_a_page() -> None:
    page_of(make_report(layers=(), schedules=(), yes=(), warnings=()))
