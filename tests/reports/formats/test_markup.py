"""Markup: whatever a text holds, a browser shows it and acts on nothing in it."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given

from peelaudit.escape import printable
from peelaudit.reports.formats.markup import element, escaped
from tests.reports.formats.support import TEXTS


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


def test_markup_is_escaped_once() -> None:
    inner = element("b", "a < b")
    assert element("p", inner, "<", class_="x", hidden="") == '<p class="x" hidden=""><b>a &lt; b</b>&lt;</p>'
    assert element("path", d="M0 0", x=1.26, y=2.0, aria_hidden="true") == (
        '<path d="M0 0" x="1.3" y="2" aria-hidden="true"/>'
    )
    assert escaped(inner) is inner
    assert escaped(3) == "3"
