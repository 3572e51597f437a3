"""HTML and SVG in which every text is escaped unless it is markup already."""

from __future__ import annotations

import html

from peelaudit.reports.wording.escape import printable

__all__ = ["Markup", "element", "embedded_json", "escaped", "joined"]

_EMPTY = frozenset({"br", "circle", "line", "link", "meta", "path", "rect"})


class Markup(str):
    """Text that is markup already: made by `element`, or a constant of our own."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """`text` as markup that shows it: on one line, control characters spelt out, nothing in it acted upon."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(text)))


def joined(*children: str) -> Markup:
    """The children one after another, each escaped unless it is markup."""
    return Markup("".join(map(escaped, children)))


def element(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element. `class_` is the attribute `class`, `aria_label` is `aria-label`, one that is None is left out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escaped(str(value))
            words.append(f'{key.rstrip("_").replace("_", "-")}="{shown}"')
    if name in _EMPTY:
        return Markup(f"<{' '.join(words)}/>")
    return Markup(f"<{' '.join(words)}>{joined(*children)}</{name}>")


def embedded_json(text: str) -> Markup:
    """JSON text for the inside of a `<script>`: the same JSON, without a character that could end the element."""
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
