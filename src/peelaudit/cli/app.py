"""The commands and their flags, as typer needs them: texts alone, for `settings` reads them and names every mistake."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from peelaudit.cli.gate_options import Baseline, FailOn, FailOver, FailRegression, OnInconclusive
from peelaudit.settings import SETTINGS, default_of

__all__ = ["app"]

_DATA, _METHOD, _COMPUTE, _OUTPUT = "Calibration data", "Method", "Computing", "Output"


class _GroupedCommand(TyperCommand):
    """Help in which options stand under their panels' names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                panel = getattr(parameter, "rich_help_panel", None)
                title = panel or ("Arguments" if parameter.param_type_name == "argument" else "Options")
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help, in groups: half the time that rich takes for its boxes, and the same in a pipe.
    rich_markup_mode=None,
    # The default spares `--help` typer's import of pydantic, for the sake of turning None into a flag.
    context_settings={"help_option_names": ["--help", "-h"], "default_map": {"help": False}},
)


def _setting(name: str, metavar: str, panel: str, text: str) -> Any:
    """The flag of an audit's setting. Its default is shown, not given: a file or a variable may say otherwise."""
    flag, default = "--" + name.replace("_", "-"), default_of(name)
    words = f"{text} Default: {default}." if default else text
    return typer.Option(flag, metavar=metavar, help=words, rich_help_panel=panel, show_default=False)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"peelaudit {version('peelaudit')}")
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


@app.command(cls=_GroupedCommand)
def run(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint: a file or a directory.")],
    data: Annotated[
        list[str] | None,
        _setting("data", "PATH", _DATA, "Text or token files, or directories of them. Repeatable."),
    ] = None,
    tokens: Annotated[str | None, _setting("tokens", "N", _DATA, "Tokens to use at most, all splits together.")] = None,
    seq_len: Annotated[
        str | None,
        _setting("seq_len", "N", _DATA, "Tokens a sequence; chosen by --tokens and the context if not given."),
    ] = None,
    split: Annotated[str | None, _setting("split", "A,B,C", _DATA, "Per cent for fit, select and held-out.")] = None,
    field: Annotated[str | None, _setting("field", "NAME", _DATA, "The text's key in .jsonl and .parquet.")] = None,
    separator: Annotated[
        str | None, _setting("separator", "TEXT", _DATA, "What stands between documents in a .txt; found if not given.")
    ] = None,
    tokenizer: Annotated[
        str | None, _setting("tokenizer", "PATH", _DATA, "A tokenizer, if the checkpoint has none or another.")
    ] = None,
    schedules: Annotated[
        list[str] | None,
        _setting(
            "schedules",
            "SPEC",
            _METHOD,
            "Which references to fit: direct, final, prefix:m, every:m, via:a,b, yes:k, search:k, all, default, or one "
            "target a layer such as 1,1,1,4. Several are separated by ; or blanks. Repeatable.",
        ),
    ] = None,
    solver: Annotated[
        str | None, _setting("solver", "NAME", _METHOD, "ridge, adam or ridge+adam: how a block is fitted.")
    ] = None,
    init: Annotated[str | None, _setting("init", "NAME", _METHOD, "trained or random: where adam starts.")] = None,
    steps: Annotated[str | None, _setting("steps", "N", _METHOD, "Adam steps a block.")] = None,
    readout: Annotated[
        str | None,
        _setting("readout", "NAME", _METHOD, "own, refit or lens: how the network's states become predictions."),
    ] = None,
    depth_readout: Annotated[
        str | None, _setting("depth_readout", "NAME", _METHOD, "The same, for the layers below the last.")
    ] = None,
    resamples: Annotated[str | None, _setting("resamples", "N", _METHOD, "Bootstrap draws for the intervals.")] = None,
    seed: Annotated[str | None, _setting("seed", "N", _METHOD, "Of splits, minibatches and bootstrap.")] = None,
    config: Annotated[
        str | None, _setting("config", "FILE", _COMPUTE, "A config.json for a checkpoint that has none.")
    ] = None,
    device: Annotated[str | None, _setting("device", "NAME", _COMPUTE, "auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[
        str | None,
        _setting("dtype", "NAME", _COMPUTE, "What blocks compute in: float32 (auto), bfloat16, float16 or float64."),
    ] = None,
    fail_over: FailOver = None,
    fail_on: FailOn = None,
    fail_regression: FailRegression = None,
    baseline: Baseline = None,
    on_inconclusive: OnInconclusive = None,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="On stdout: table, json, csv, markdown, html, junit or github.",
            rich_help_panel=_OUTPUT,
        ),
    ] = "table",
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="[FORMAT=]PATH",
            help="Write a file as well; .json, .csv, .md, .html, .xml (JUnit) and .txt tell the format. Repeatable.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no warnings on stderr.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Audit a checkpoint layer by layer.

    Flags win over peelaudit.toml (or tool.peelaudit in pyproject.toml), that over PEELAUDIT_NAME in the environment.
    Exit code 1 means that the gate failed, and nothing else.
    """
    from peelaudit.cli.commands import run_audit

    # The parameters of the settings are for typer to read; here they are taken by name, all alike.
    flags = {name: context.params[name] for name in SETTINGS}
    gate_flags = {
        "fail_over": fail_over,
        "fail_on": fail_on,
        "fail_regression": fail_regression,
        "baseline": baseline,
        "on_inconclusive": on_inconclusive,
    }
    run_audit(checkpoint, flags, gate_flags, format_name=format_name, outputs=output or (), quiet=quiet)


@app.command(cls=_GroupedCommand)
def check(
    reports: Annotated[list[str], typer.Argument(metavar="REPORT...", help="JSON reports of earlier runs.")],
    fail_over: FailOver = None,
    fail_on: FailOn = None,
    fail_regression: FailRegression = None,
    baseline: Baseline = None,
    on_inconclusive: OnInconclusive = None,
    format_name: Annotated[
        str,
        typer.Option("--format", "-f", metavar="NAME", help="On stdout: table or json.", rich_help_panel=_OUTPUT),
    ] = "table",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No warnings on stderr.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Gate saved reports again, without the model.

    The rules and suppressions are those of the flags and of the table gate in peelaudit.toml (tool.peelaudit.gate in
    pyproject.toml). Of several reports the worst exit code wins: 3 not completed, 2 a rule that fits no row, 1 failed.
    """
    from peelaudit.cli.gating import check_reports

    flags = {
        "fail_over": fail_over,
        "fail_on": fail_on,
        "fail_regression": fail_regression,
        "baseline": baseline,
        "on_inconclusive": on_inconclusive,
    }
    check_reports(reports, flags, format_name=format_name, quiet=quiet)


@app.command(cls=_GroupedCommand)
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The JSON report of an earlier run.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The JSON report of a later run, on the same tokens.")],
    tolerance: Annotated[
        str | None,
        typer.Option("--tolerance", metavar="X", help="nats/token that count as no change. Default: 0.001."),
    ] = None,
    fail_regression: FailRegression = None,
    on_inconclusive: OnInconclusive = None,
    format_name: Annotated[
        str,
        typer.Option("--format", "-f", metavar="NAME", help="On stdout: table or json.", rich_help_panel=_OUTPUT),
    ] = "table",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No warnings on stderr.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Compare two reports, layer by layer, and say where the change begins.

    Reports on other tokens, or with other settings, are not compared: exit code 2, and what differs.
    """
    from peelaudit.cli.gating import compare_reports

    flags = {"fail_regression": fail_regression, "on_inconclusive": on_inconclusive}
    compare_reports(base, new, flags, tolerance=tolerance, format_name=format_name, quiet=quiet)


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint: a file or a directory.")],
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="A config.json for a checkpoint that has none.")
    ] = None,
    format_name: Annotated[str, typer.Option("--format", "-f", metavar="NAME", help="table or json.")] = "table",
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors as well.")] = False,
) -> None:
    """Say what a checkpoint is, from its headers alone.

    Its format, family, sizes, tokenizer, training step and fingerprint.
    """
    from peelaudit.cli.commands import inspect_checkpoint

    inspect_checkpoint(checkpoint, config=config, format_name=format_name, tensors=tensors)


@app.command()
def convert(
    reports: Annotated[list[str], typer.Argument(metavar="REPORT…", help="Reports that `run` wrote as JSON.")],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="On stdout: table, csv, markdown, html, junit, github or json. Default: table, or nothing with -o.",
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="[FORMAT=]PATH",
            help="Write a file; .csv, .md, .html, .xml (JUnit), .txt and .json tell the format. Repeatable.",
        ),
    ] = None,
) -> None:
    """Write saved reports in other formats, without the checkpoint.

    Several reports become one file; those of one training run are drawn as a series as well (html and table).
    """
    from peelaudit.cli.commands import convert_reports

    convert_reports(reports, format_name=format_name, outputs=output or ())


@app.command()
def schema() -> None:
    """Print the JSON schema (draft 2020-12) of the JSON report."""
    from peelaudit.cli.commands import print_schema

    print_schema()
