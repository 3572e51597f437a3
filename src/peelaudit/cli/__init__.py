"""The command line. Importing it loads neither typer nor torch: errors and signals are taken care of first."""

from __future__ import annotations

from collections.abc import Sequence

from peelaudit.cli.guard import guarded

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (or `sys.argv`) ask for; the exit code."""

    def command() -> None:
        from peelaudit.cli.app import app

        app(args=None if arguments is None else list(arguments), prog_name="peelaudit")

    return guarded(command)
