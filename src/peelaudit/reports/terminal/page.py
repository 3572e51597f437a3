"""What every page is made of: a console that writes into a string, headings, and pairs of label and text."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from peelaudit.escape import printable
from peelaudit.records import Verdict
from peelaudit.reports.wording.text import VERDICT_WORDS, encodable

__all__ = [
    "LEAST_WIDTH",
    "STYLES",
    "WholeTable",
    "draw",
    "heading",
    "pairs",
    "prose",
    "sums_table",
    "table",
    "verdict_prose",
]

LEAST_WIDTH = 80
LABEL_WIDTH = 12
_ENDLESS = 1 << 16
"""Characters: more than any line has."""
STYLES: dict[Verdict, str] = {
    Verdict.RED: "bold red",
    Verdict.YELLOW: "yellow",
    Verdict.GREEN: "green",
    Verdict.GREY: "bright_black",
}


def draw(parts: Iterable[RenderableType], *, width: int, colour: bool, encoding: str) -> str:
    """The parts below one another, each line without trailing blanks."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=_ENDLESS,
        # All said here, or rich asks the environment (LINES, NO_COLOR, a notebook): that is the caller's business.
        height=100,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        force_jupyter=False,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        whole = isinstance(part, WholeTable)
        soft = whole or (isinstance(part, Text) and bool(part.no_wrap))
        console.print(part, soft_wrap=soft, width=_ENDLESS if whole else max(width, LEAST_WIDTH))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return encodable("\n".join(lines) + "\n", encoding)


def heading(text: str) -> Text:
    """A section's title, a blank line before it."""
    return Text.assemble("\n", (text, "bold"))


def prose(*pieces: str | tuple[str, str]) -> Text:
    """A paragraph; a piece may have a style. Control characters are spelt out."""
    return Text.assemble(*((printable(p), "") if isinstance(p, str) else (printable(p[0]), p[1]) for p in pieces))


def verdict_prose(verdict: Verdict, headline: str) -> Text:
    """The verdict in words, its sign and colour before it: `! yellow, can do better: …`."""
    return prose((f"{VERDICT_WORDS[verdict][0]} {verdict}", STYLES[verdict]), f", {headline}")


def pairs(rows: Iterable[tuple[str, Text]], *, label_width: int = LABEL_WIDTH) -> Table:
    """Labels on the left, texts wrapped on the right."""
    grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column(width=label_width, no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(label, text)
    return grid


def sums_table(lines: Iterable[tuple[str, str, str, str]]) -> Table:
    """Figures that add up, one below another: label, value, interval, a remark."""
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True)
    for _ in range(2):
        grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim")
    for line in lines:
        grid.add_row(*line)
    return grid


class WholeTable(Table):
    """A table that is as wide as what it holds, also beyond the page: a name that is cut in two can't be looked for."""


def table(kind: type[Table] = Table) -> Table:
    """A table with a line under its header and nothing else, one blank between columns."""
    return kind(box=box.SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False, header_style="bold")
