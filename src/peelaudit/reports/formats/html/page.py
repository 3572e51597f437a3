"""A whole HTML page around a body: style, the script that sorts tables, and the policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from peelaudit.reports.formats.html.templates import render
from peelaudit.reports.formats.resources import text_of

__all__ = ["page"]


def page(title: str, heading: str, body: Markup) -> str:
    """The page; `title` is the browser's, `heading` the first line."""
    script = text_of("html/sort.js")
    text = render(
        "page.html",
        title=title,
        heading=heading,
        body=body,
        style=text_of("html/page.css") + text_of("charts.css"),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return f"{text}\n"
