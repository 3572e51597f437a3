"""The HTML report: one file that needs nothing else, no network, no framework, and no script to be read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence

from peelaudit.records import AuditReport
from peelaudit.records import json as json_export
from peelaudit.reports.formats.content import Content
from peelaudit.reports.formats.html import overview, report
from peelaudit.reports.formats.html.parts import path_text
from peelaudit.reports.formats.markup import Markup, element, embedded_json
from peelaudit.reports.formats.resources import text_of
from peelaudit.reports.wording.text import count, verdict_text

__all__ = ["MOST_CHARACTERS", "export"]

MOST_CHARACTERS = 16_000_000
"""Of the sections of single reports in one page; the overview names every report."""


def export(content: Content) -> str:
    """The content as an HTML page.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    content.check_finite()
    alone = len(content.reports) == 1 and not content.failures
    title = f"peelaudit: {verdict_text(content.reports[0].network.held_out.verdict) if alone else content.headline()}"
    body = _alone(content) if alone else _several(content)
    script = Markup(text_of("sort.js"))
    page = element(
        "html",
        _head(title, script),
        element("body", element("main", element("h1", title), *body), element("script", script)),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


def _head(title: str, script: str) -> Markup:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The browser itself sees to it that nothing is loaded and that no other script runs.
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; base-uri 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(text_of("page.css")), Markup(text_of("charts.css"))),
    )


def _alone(content: Content) -> Iterator[Markup]:
    subject = content.reports[0]
    yield from report.sections(subject, content.checks_of(subject), prefix="r1", level=2)
    yield _data(subject, "report-1")


def _several(content: Content) -> Iterator[Markup]:
    ranked = content.ranked()
    detailed = list(_detailed(content, ranked))
    names = {id(item): f"r{index}" for index, item in enumerate(ranked[: len(detailed)], 1)}
    yield from overview.sections(content, names)
    yield from detailed
    if cut := len(ranked) - len(detailed):
        yield element(
            "p",
            f"Cut here: {count(cut)} of {count(len(ranked))} checkpoints have a row above and no section: a page of "
            "them all would be slow to open. Convert their reports one by one.",
        )


def _detailed(content: Content, ranked: Sequence[AuditReport]) -> Iterator[Markup]:
    """A section to unfold for each report, in the order of gravity, as long as the page isn't too large."""
    used = 0
    for index, item in enumerate(ranked, 1):
        heading = f"{verdict_text(item.network.held_out.verdict)}: {path_text(item.checkpoint.path)}"
        section = element(
            "details",
            element("summary", element("h2", heading)),
            *report.sections(item, content.checks_of(item), prefix=f"r{index}", level=3),
            _data(item, f"report-{index}"),
            id=f"r{index}",
            class_="report",
        )
        used += len(section)
        if used > MOST_CHARACTERS:
            return
        yield section


def _data(item: AuditReport, name: str) -> Markup:
    """The JSON report, for programs that are given the page alone."""
    return element("script", embedded_json(json_export.compact(item)), type="application/json", id=name)
