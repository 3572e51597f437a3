"""Templates: what they are given is shown as it is, and a name that they miss is an error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup

from peelaudit.escape import printable
from peelaudit.reports.formats.html.templates import embedded_json, render
from tests.reports.formats.support import TEXTS, Page

FRAME = {"heading": "a", "body": "", "style": "", "script": ""}


@given(title=TEXTS, digest=TEXTS)
def test_texts_come_back_and_are_no_markup(title: str, digest: str) -> None:
    page = Page(render("page.html", title=title, digest=digest, **{**FRAME, "heading": title}))
    assert page.texts.get("title", []) == page.texts.get("h1", []) == ([printable(title)] if title else [])
    assert f"'sha256-{printable(digest)}'" in (page.all("meta")[1]["content"] or "")
    assert [tag for tag, _ in page.elements if tag in ("b", "p", "img")] == []


def test_markup_is_left_as_it_is() -> None:
    text = render("page.html", title="a", digest="b", **{**FRAME, "body": Markup("<p>&amp;</p>")})
    assert "<p>&amp;</p>" in text


def test_a_missing_name_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'digest' is undefined"):
        render("page.html", title="a", **FRAME)


@given(value=st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=5))
def test_json_inside_a_script_is_the_same_json(value: object) -> None:
    inside = embedded_json(json.dumps(value))
    assert json.loads(inside) == value
    assert not set("<>&") & set(inside)
