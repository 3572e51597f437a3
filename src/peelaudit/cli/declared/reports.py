"""What is done with saved reports."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from peelaudit.cli.declared.common import Full, Output, silenced, stdout
from peelaudit.cli.options import COMPARISON, GATE, with_flags

__all__ = ["check", "compare", "convert", "schema"]


@with_flags(GATE)
def check(
    reports: Annotated[
        list[str],
        typer.Argument(metavar="REPORT|RESULTS...", help="JSON reports of earlier runs, or a batch's results."),
    ],
    format_name: Annotated[str, stdout("table or json")] = "table",
    quiet: Annotated[bool, silenced("No warnings on stderr")] = False,
    **flags: Any,
) -> None:
    """Gate saved reports again, without the model.

    The rules and suppressions are those of the flags and of the table gate in peelaudit.toml (tool.peelaudit.gate in
    pyproject.toml). Of several reports the worst exit code wins: 3 not completed, 2 a rule that fits no row, 1 failed.
    """
    from peelaudit.cli.gating import check_reports

    check_reports(reports, flags, format_name=format_name, quiet=quiet)


@with_flags(COMPARISON)
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The JSON report of an earlier run.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The JSON report of a later run, on the same tokens.")],
    tolerance: Annotated[
        str | None,
        typer.Option("--tolerance", metavar="X", help="nats/token that count as no change. Default: 0.001."),
    ] = None,
    format_name: Annotated[str, stdout("table or json")] = "table",
    quiet: Annotated[bool, silenced("No warnings on stderr")] = False,
    **flags: Any,
) -> None:
    """Compare two reports, layer by layer, and say where the change begins.

    Reports on other tokens, or with other settings, are not compared: exit code 2, and what differs.
    """
    from peelaudit.cli.gating import compare_reports

    compare_reports(base, new, flags, tolerance=tolerance, format_name=format_name, quiet=quiet)


def convert(
    reports: Annotated[
        list[str],
        typer.Argument(metavar="REPORT|RESULTS…", help="Reports that `run` wrote as JSON, or a batch's results."),
    ],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="On stdout: table, csv, markdown, html, junit, github or json. Default: table, or nothing with -o.",
        ),
    ] = None,
    full: Full = False,
    output: Output = None,
) -> None:
    """Write saved reports in other formats, without the checkpoint.

    Several reports become one file; those of one training run are drawn as a series as well (html and table).
    """
    from peelaudit.cli.commands import convert_reports

    convert_reports(reports, format_name=format_name, outputs=output or (), full=full)


def schema() -> None:
    """Print the JSON schema (draft 2020-12) of the JSON report."""
    from peelaudit.cli.commands import print_schema

    print_schema()
