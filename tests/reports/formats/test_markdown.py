"""Markdown of several reports: failures first, under GitHub's limit, and what was cut is said."""

from __future__ import annotations

import dataclasses
import re

from peelaudit.records import AuditReport, Outcome, Unaudited, Verdict
from peelaudit.reports.formats import Format, export
from tests.factories import make_report
from tests.reports.formats.support import make_check, make_series

LIMIT = 1 << 20  # bytes of a step summary


def under(path: str, report: AuditReport) -> AuditReport:
    return dataclasses.replace(report, checkpoint=dataclasses.replace(report.checkpoint, path=path))


def test_what_fails_comes_first() -> None:
    reports = [
        make_report(path="green.pt", verdict=Verdict.GREEN),
        make_report(path="red.pt", verdict=Verdict.RED),
        make_report(path="failing.pt", verdict=Verdict.GREEN),
    ]
    checks = [
        make_check("failing.pt"),
        make_check("red.pt", Outcome.SUPPRESSED),
        make_check("green.pt", Outcome.PASSED),
    ]
    text = export(reports, Format.MARKDOWN, checks=checks, failures=[Unaudited("bad.pt", "Malformed", "cut off")])
    assert text.startswith("# peelaudit: 4 checkpoints, 1 fails the gate, 1 red, 2 green, 1 not audited\n")
    overview, *sections = text.split("\n## ")
    assert re.findall(r"(\w+)\.pt", overview) == ["bad", "failing", "red", "green"]
    assert [re.findall(r"(\w+)\.pt", section)[0] for section in sections] == ["failing", "red", "green"]
    assert "| 1 fail |" in overview
    assert "| 1 suppressed |" in overview
    assert "| passed |" in overview


def test_checks_that_did_not_pass_are_listed_what_fails_first() -> None:
    checks = [
        make_check(outcome=Outcome.PASSED, reason="as it was"),
        make_check(outcome=Outcome.SUPPRESSED, reason="known since May"),
        make_check(outcome=Outcome.FAILED, reason="too | far"),
    ]
    text = export([make_report()], Format.MARKDOWN, checks=checks)
    assert "3 checks: 1 fail, 1 suppressed." in text
    assert text.index("too \\| far") < text.index("known since May")
    assert "as it was" not in text


def test_a_hundred_reports_of_eighty_layers_fit_a_step_summary() -> None:
    report = make_report(80)
    text = export([under(f"runs/{index:03}.pt", report) for index in range(100)], Format.MARKDOWN)
    assert len(text.encode()) < LIMIT
    assert all(f"runs/{index:03}.pt" in text for index in range(100))
    sections = text.count("\n## peelaudit: ")
    assert 20 < sections < 100
    assert f"**Cut here**: the sections of {100 - sections} of 100 checkpoints" in text


def test_even_an_overview_that_is_too_long_is_cut() -> None:
    path = f"runs/{'0' * 100}.pt"
    reports = [under(path, make_report(2))] * 6_000
    text = export(reports, Format.MARKDOWN)
    assert len(text.encode()) < LIMIT
    cut = int(re.findall(r"\*\*Cut here\*\*: (\d+) lines more", text)[0])
    assert text.count(path) + cut == len(reports) + 1  # a blank line ends the overview


def test_a_training_run_is_told_in_words() -> None:
    text = export(make_series(), Format.MARKDOWN)
    assert "Every verdict is green from step 200 on, which says little before step 400" in text
    assert "step 400 the first to meet that of the whole series" in text
    assert "green from" not in export([*make_series(), make_report(6, path="other.pt")], Format.MARKDOWN)


def test_few_reports_are_whole() -> None:
    text = export([under(f"runs/{index}.pt", make_report(4)) for index in range(3)], Format.MARKDOWN)
    assert "Cut here" not in text
    assert text.count("\n## peelaudit: ") == 3
