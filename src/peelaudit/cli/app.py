"""The commands and their flags, as typer needs them. Numbers are texts here too: every mistake is named at once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from peelaudit.cli.options import OUTPUT, GroupedCommand, with_settings

__all__ = ["app"]


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help, in groups: half the time that rich takes for its boxes, and the same in a pipe.
    rich_markup_mode=None,
    # The default spares `--help` typer's import of pydantic, for the sake of turning None into a flag.
    context_settings={"help_option_names": ["--help", "-h"], "default_map": {"help": False}},
)


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


@app.command(cls=GroupedCommand)
@with_settings
def run(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint: a file or a directory.")],
    format_name: Annotated[
        str,
        typer.Option(
            "--format", "-f", metavar="NAME", help="On stdout: table, json, csv or markdown.", rich_help_panel=OUTPUT
        ),
    ] = "table",
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="[FORMAT=]PATH",
            help="Write a file as well; .json, .csv, .md and .txt tell the format. Repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no warnings on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    **flags: Any,
) -> None:
    """Audit a checkpoint layer by layer.

    Flags win over peelaudit.toml (or tool.peelaudit in pyproject.toml), that over PEELAUDIT_NAME in the environment.
    """
    from peelaudit.cli.commands import run_audit

    run_audit(checkpoint, flags, format_name=format_name, outputs=output or (), quiet=quiet)


_FLEET = "Fleet"


def _fleet(flag: str, metavar: str, text: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, rich_help_panel=_FLEET, show_default=False)


@app.command(cls=GroupedCommand)
@with_settings
def batch(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|GLOB|FILE|LIST...",
            help="Directories to search, quoted globs, checkpoints, or text files with a path a line (- is stdin).",
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", metavar="RESULTS", help="The directory of results.", rich_help_panel=OUTPUT)
    ],
    format_name: Annotated[
        str, typer.Option("--format", "-f", metavar="NAME", help="On stdout: table or json.", rich_help_panel=OUTPUT)
    ] = "table",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no failures on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    jobs: Annotated[
        str | None,
        _fleet("--jobs", "N", "Audits at a time. Default: one a CUDA device, else one; with ray, what fits."),
    ] = None,
    threads: Annotated[
        str | None,
        _fleet(
            "--threads",
            "N",
            "Threads an audit. Default: OMP_NUM_THREADS, else the cores shared among the jobs; with ray, 1.",
        ),
    ] = None,
    retries: Annotated[str, _fleet("--retries", "N", "New attempts after an I/O error, no other. Default: 0.")] = "0",
    shard: Annotated[
        str | None,
        _fleet("--shard", "I/N", "Audit every N-th, from the I-th. Default: the place in a SLURM job array, else 1/1."),
    ] = None,
    engine: Annotated[str, _fleet("--engine", "NAME", "local or ray. Default: local.")] = "local",
    gpus_per_task: Annotated[
        str, _fleet("--gpus-per-task", "X", "Ray's share of a GPU for each audit, such as 0.5. Default: 0.")
    ] = "0",
    **flags: Any,
) -> None:
    """Audit many checkpoints, each in its own process; what is done is not done twice.

    A bad one is a row that says why, and exit code 3 in the end; the others are audited all the same. Run it again to
    continue. Settings come from flags, files and variables as for run.
    """
    from peelaudit.cli.fleet import Wish, audit_fleet

    audit_fleet(
        checkpoints, flags, Wish(out, jobs, threads, retries, shard, engine, gpus_per_task), format_name, quiet=quiet
    )


@app.command()
def status(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="What batch was given as --out.")],
    format_name: Annotated[str, typer.Option("--format", "-f", metavar="NAME", help="table or json.")] = "table",
) -> None:
    """Say how far a batch is: what is done, failed and why, running, pending."""
    from peelaudit.cli.fleet import show_status

    show_status(results, format_name)


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
def schema() -> None:
    """Print the JSON schema (draft 2020-12) of the JSON report."""
    from peelaudit.cli.commands import print_schema

    print_schema()
