"""The pieces of a Markdown page: tables, and texts in which nothing is acted upon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from peelaudit.escape import printable

__all__ = ["plain", "table"]

_SPECIAL = str.maketrans({char: "\\" + char for char in "\\`*_{}[]<>#|~$@!&"})


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, right: Sequence[int]) -> Iterator[str]:
    """The lines of a table; `right` are the columns of numbers."""
    yield _row(header)
    yield _row(tuple("---:" if index in right else "---" for index in range(len(header))))
    yield from map(_row, rows)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def plain(text: str, width: int = 1_000) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would act on."""
    shown = printable(text)
    return (shown if len(shown) <= width else shown[: width - 1] + "…").translate(_SPECIAL)
