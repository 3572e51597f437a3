"""The HTML report: one file that needs nothing else, no network, no framework, and no script to be read."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from peelaudit.reports.formats.content import Content
from peelaudit.reports.formats.html import overview, report
from peelaudit.reports.formats.html.page import page
from peelaudit.reports.formats.html.parts import path_text
from peelaudit.reports.wording.findings import headline_text
from peelaudit.reports.wording.text import verdict_text

__all__ = ["MOST_CHARACTERS", "export"]

MOST_CHARACTERS = 16_000_000
"""Of the sections of single reports in one page; the overview names every report."""


def export(content: Content) -> str:
    """The content as an HTML page.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; the message has its path.
    """
    content.check_finite()
    if len(content.reports) == 1 and not content.failures:
        subject = content.reports[0]
        title = headline_text(subject)
        heading = path_text(subject.checkpoint.path)
        body = report.section(subject, content.checks_of(subject), index=1, level=2)
    else:
        title = heading = content.headline()
        body = overview.body(content, list(_sections(content)))
    return page(f"peelaudit: {title}", f"peelaudit: {heading}", body)


def _sections(content: Content) -> Iterator[tuple[str, Markup]]:
    """A heading and a section for each report, in the order of gravity, as long as the page isn't too large."""
    used = 0
    for index, item in enumerate(content.ranked(), 1):
        section = report.section(item, content.checks_of(item), index=index, level=3)
        used += len(section)
        if used > MOST_CHARACTERS:
            return
        yield f"{verdict_text(item.verdict)}: {path_text(item.checkpoint.path)}", section
