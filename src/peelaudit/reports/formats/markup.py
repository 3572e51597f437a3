"""SVG in which every text is escaped unless it is markup already."""

from __future__ import annotations

from markupsafe import Markup, escape

from peelaudit.escape import printable

__all__ = ["element", "escaped"]

_EMPTY = frozenset({"circle", "line", "path", "rect"})


def escaped(value: object) -> Markup:
    """`value` as markup that shows it: on one line, control characters spelt out, nothing in it acted upon."""
    return value if isinstance(value, Markup) else escape(printable(str(value)))


def element(name: str, /, *children: str, **attributes: str | float) -> Markup:
    """An element. `class_` is the attribute `class`, `aria_label` is `aria-label`."""
    words = [name]
    for key, value in attributes.items():
        shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escaped(value)
        words.append(f'{key.rstrip("_").replace("_", "-")}="{shown}"')
    start = " ".join(words)
    text = f"<{start}/>" if name in _EMPTY else f"<{start}>{''.join(map(escaped, children))}</{name}>"
    return Markup(text)  # noqa: S704  # its names are our own, all else in it is escaped
