"""Markup: whatever a text holds, a browser shows it and acts on nothing in it."""

from __future__ import annotations

import json
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from peelaudit.reports.formats.markup import Markup, element, embedded_json, joined
from peelaudit.reports.wording.escape import printable

TEXTS = st.text(st.characters(), max_size=30) | st.sampled_from(["</p><b>", "&lt;", "'\"", "<!--", "]]>", "\x1b[0m"])


class Read(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(text=TEXTS, value=TEXTS)
def test_texts_and_attributes_come_back_and_are_no_markup(text: str, value: str) -> None:
    found = Read(element("p", text, title=value))
    assert found.tags == [("p", {"title": printable(value)})]
    assert found.text == printable(text)


@given(value=st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=5))
def test_json_inside_a_script_is_the_same_json(value: object) -> None:
    inside = embedded_json(json.dumps(value))
    assert json.loads(inside) == value
    assert not set("<>&") & set(inside)


def test_markup_is_escaped_once() -> None:
    inner = element("b", "a < b")
    assert joined(inner, "<") == "<b>a &lt; b</b>&lt;"
    assert element("p", inner, class_="x", data_v=None, hidden="") == '<p class="x" hidden=""><b>a &lt; b</b></p>'
    assert element("path", d="M0 0", x=1.26, y=2.0) == '<path d="M0 0" x="1.3" y="2"/>'
    assert isinstance(joined("a"), Markup)
