"""The pages' templates, which lie beside this module, and what they may say without being told."""

from __future__ import annotations

import functools

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from peelaudit.reports.formats.markup import escaped
from peelaudit.reports.wording.findings import PROFILE_WORDS
from peelaudit.reports.wording.text import count, interval, number, signed, size, verdict_text
from peelaudit.reports.wording.words import LEGEND, VERDICT_MEANING

__all__ = ["embedded_json", "render"]


def render(name: str, /, **context: object) -> Markup:
    """A template with its context filled in; a name that it misses is an error."""
    return Markup(_environment().get_template(name).render(context))  # noqa: S704  # escaped by the template


def embedded_json(text: str) -> Markup:
    """JSON text for the inside of a `<script>`: the same JSON, without a character that could end the element."""
    inside = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(inside)  # noqa: S704  # nothing is left in it that HTML knows


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("peelaudit.reports.formats.html", "."),
        autoescape=True,
        finalize=escaped,  # autoescape leaves control characters as they are
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    wording = (count, interval, number, signed, size, verdict_text)
    made.globals.update({function.__name__: function for function in wording})
    made.globals.update(LEGEND=LEGEND, PROFILE_WORDS=PROFILE_WORDS, VERDICT_MEANING=VERDICT_MEANING)
    return made
