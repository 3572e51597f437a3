"""What several commands declare alike. Numbers are texts everywhere: every mistake is named at once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from peelaudit.cli.options import OUTPUT

__all__ = ["Checkpoint", "Full", "Output", "Resume", "computing", "silenced", "stdout"]

Checkpoint = Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint: a file or a directory.")]

Output = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="[FORMAT=]PATH",
        help="Write a file as well; .json, .csv, .md, .html, .xml (JUnit) and .txt tell the format. Repeatable.",
        rich_help_panel=OUTPUT,
    ),
]

Full = Annotated[
    bool, typer.Option("--full", help="The table in full: every figure, and the warnings.", rich_help_panel=OUTPUT)
]

_COMPUTING = "Computing"

Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume",
        help="Keep what an audit of over a minute has found, so that one that is killed goes on there. Default: on.",
        show_default=False,
        rich_help_panel=_COMPUTING,
    ),
]


def computing(flag: str, metavar: str, text: str) -> Any:
    """How an audit is computed."""
    return typer.Option(flag, metavar=metavar, help=text, rich_help_panel=_COMPUTING, show_default=False)


def stdout(names: str) -> Any:
    """`--format`, which is one of these."""
    return typer.Option("--format", "-f", metavar="NAME", help=f"On stdout: {names}.", rich_help_panel=OUTPUT)


def silenced(words: str) -> Any:
    """`--quiet`, and what isn't said with it."""
    return typer.Option("--quiet", "-q", help=f"{words}.", rich_help_panel=OUTPUT)
