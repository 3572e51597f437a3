"""The program: its commands in the order of its help."""

from __future__ import annotations

from typing import Annotated

import typer

from peelaudit.cli.declared.audits import fix, run, selftest
from peelaudit.cli.declared.checkpoints import budget, diff, inspect
from peelaudit.cli.declared.fleet import batch, cache, status, watch
from peelaudit.cli.declared.reports import check, compare, convert, schema
from peelaudit.cli.options import GroupedCommand
from peelaudit.version import __version__

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help, in groups: half the time that rich takes for its boxes, and the same in a pipe.
    rich_markup_mode=None,
    # The defaults spare `--help` typer's import of pydantic, for the sake of turning None into a flag.
    context_settings={
        "help_option_names": ["--help", "-h"],
        "default_map": dict.fromkeys(("help", "install_completion", "show_completion"), False),
    },
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"peelaudit {__version__}")
        raise typer.Exit


@app.callback()
def _peelaudit(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Which layers of a trained decoder-only transformer never learned their job: an audit of a saved checkpoint.

    It fits reference networks to the checkpoint's own hidden states, block by block (layer-wise peeling, arXiv
    2605.02853). A trained network that loses to a reference has layers that could do better.
    """


for _command in (
    *(run, check, compare, diff, batch, watch, status),
    *(inspect, convert, selftest, fix, budget, cache, schema),
):
    app.command(cls=GroupedCommand)(_command)
