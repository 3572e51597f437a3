"""The command line. Importing it loads neither typer nor torch: errors and signals are taken care of first."""

from __future__ import annotations

import os
from collections.abc import Sequence

from peelaudit.cli.guard import guarded

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (or `sys.argv`) ask for; the exit code."""
    # torch's own, read when it makes its first tensor: memory of 2 MB and more in huge pages, if Linux has any. With a
    # million words half of an audit's time went into small pages, of what is made and dropped for each batch.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

    def command() -> None:
        from peelaudit.cli.app import app

        app(args=None if arguments is None else list(arguments), prog_name="peelaudit")

    return guarded(command)
