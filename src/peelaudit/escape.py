"""Hostile text made harmless. On its own, so that an error message needs nothing else of the package."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """`text` on one line, with control characters, terminal escapes and lone surrogates spelt out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
