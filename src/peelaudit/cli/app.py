"""The commands and their flags, as typer needs them. Numbers are texts here too: every mistake is named at once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from peelaudit.cli.options import AUDIT, COMPARISON, DIFFERENCE, FIX, GATE, OUTPUT, GroupedCommand, with_flags
from peelaudit.version import __version__

__all__ = ["app"]

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

Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume",
        help="Keep what an audit of over a minute has found, so that one that is killed goes on there. Default: on.",
        show_default=False,
        rich_help_panel="Computing",
    ),
]

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


@app.command(cls=GroupedCommand)
@with_flags(AUDIT, GATE)
def run(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint: a file or a directory.")],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="On stdout: table, json, csv, markdown, html, junit or github.",
            rich_help_panel=OUTPUT,
        ),
    ] = "table",
    full: Full = False,
    output: Output = None,
    save_repairs: Annotated[
        str | None,
        typer.Option(
            "--save-repairs",
            metavar="DIR",
            help="Write each block, refined alone, as safetensors.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    save_refined: Annotated[
        str | None,
        typer.Option(
            "--save-refined",
            metavar="DIR",
            help="Write the reference refined: a safetensors file for each block, and its head.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no warnings on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    resume: Resume = True,
    **flags: Any,
) -> None:
    """Audit a checkpoint layer by layer.

    Flags win over peelaudit.toml (or tool.peelaudit in pyproject.toml), that over PEELAUDIT_NAME in the environment.
    Exit code 1 means that the gate failed, and nothing else.
    """
    from peelaudit.cli.commands import run_audit

    run_audit(
        checkpoint,
        flags,
        format_name=format_name,
        outputs=output or (),
        save_repairs=save_repairs,
        save_refined=save_refined,
        quiet=quiet,
        full=full,
        resume=resume,
    )


@app.command(cls=GroupedCommand)
@with_flags(GATE)
def check(
    reports: Annotated[
        list[str],
        typer.Argument(metavar="REPORT|RESULTS...", help="JSON reports of earlier runs, or a batch's results."),
    ],
    format_name: Annotated[
        str,
        typer.Option("--format", "-f", metavar="NAME", help="On stdout: table or json.", rich_help_panel=OUTPUT),
    ] = "table",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No warnings on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    **flags: Any,
) -> None:
    """Gate saved reports again, without the model.

    The rules and suppressions are those of the flags and of the table gate in peelaudit.toml (tool.peelaudit.gate in
    pyproject.toml). Of several reports the worst exit code wins: 3 not completed, 2 a rule that fits no row, 1 failed.
    """
    from peelaudit.cli.gating import check_reports

    check_reports(reports, flags, format_name=format_name, quiet=quiet)


@app.command(cls=GroupedCommand)
@with_flags(COMPARISON)
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The JSON report of an earlier run.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The JSON report of a later run, on the same tokens.")],
    tolerance: Annotated[
        str | None,
        typer.Option("--tolerance", metavar="X", help="nats/token that count as no change. Default: 0.001."),
    ] = None,
    format_name: Annotated[
        str,
        typer.Option("--format", "-f", metavar="NAME", help="On stdout: table or json.", rich_help_panel=OUTPUT),
    ] = "table",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No warnings on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    **flags: Any,
) -> None:
    """Compare two reports, layer by layer, and say where the change begins.

    Reports on other tokens, or with other settings, are not compared: exit code 2, and what differs.
    """
    from peelaudit.cli.gating import compare_reports

    compare_reports(base, new, flags, tolerance=tolerance, format_name=format_name, quiet=quiet)


@app.command(cls=GroupedCommand)
@with_flags(DIFFERENCE)
def diff(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A checkpoint: a file or a directory.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another one of the same architecture, of any format.")],
    passes: Annotated[
        str,
        typer.Option(
            "--passes",
            metavar="N",
            help="Forward passes over all tokens that each direction may take, or all: where that isn't enough, parts "
            "are swapped on fewer sequences. Default: 4.",
            show_default=False,
            rich_help_panel="Method",
        ),
    ] = "4",
    fail_over: Annotated[
        str | None,
        typer.Option(
            "--fail-over",
            metavar="NATS",
            help="Fail where NEW, or a part of it in BASE, costs more than that, by its whole interval.",
            rich_help_panel="Gate",
        ),
    ] = None,
    format_name: Annotated[
        str,
        typer.Option("--format", "-f", metavar="NAME", help="On stdout: table or json.", rich_help_panel=OUTPUT),
    ] = "table",
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="[FORMAT=]PATH",
            help="Write a file as well; .json and .txt tell the format. Repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no warnings on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    **flags: Any,
) -> None:
    """Say which part of one checkpoint makes it better or worse than another, by swapping them.

    Each block of NEW in BASE, and of BASE in NEW; their tensors are compared as well, for what conversions break. The
    text is cut by BASE's tokenizer; an adapter is merged into NEW.
    """
    from peelaudit.cli.differing import DiffFlags, run_diff

    own = DiffFlags(passes, fail_over)
    run_diff(base, new, flags, own, format_name=format_name, outputs=output or (), quiet=quiet)


_FLEET = "Fleet"


def _fleet(flag: str, metavar: str, text: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, rich_help_panel=_FLEET, show_default=False)


Out = Annotated[str, typer.Option("--out", metavar="RESULTS", help="The directory of results.", rich_help_panel=OUTPUT)]
Jobs = Annotated[
    str | None, _fleet("--jobs", "N", "Audits at a time. Default: one a CUDA device, else one; with ray, what fits.")
]
Threads = Annotated[
    str | None,
    _fleet(
        "--threads",
        "N",
        "Threads an audit. Default: OMP_NUM_THREADS, else the cores shared among the jobs; with ray, 1.",
    ),
]
Retries = Annotated[str, _fleet("--retries", "N", "New attempts after an I/O error, no other. Default: 0.")]


@app.command(cls=GroupedCommand)
@with_flags(AUDIT, GATE)
def batch(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|GLOB|FILE|LIST...",
            help="Directories to search, quoted globs, checkpoints, or text files with a path a line (- is stdin).",
        ),
    ],
    out: Out,
    format_name: Annotated[
        str, typer.Option("--format", "-f", metavar="NAME", help="On stdout: table or json.", rich_help_panel=OUTPUT)
    ] = "table",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no failures on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    jobs: Jobs = None,
    threads: Threads = None,
    retries: Retries = "0",
    shard: Annotated[
        str | None,
        _fleet("--shard", "I/N", "Audit every N-th, from the I-th. Default: the place in a SLURM job array, else 1/1."),
    ] = None,
    engine: Annotated[str, _fleet("--engine", "NAME", "local or ray. Default: local.")] = "local",
    gpus_per_task: Annotated[
        str, _fleet("--gpus-per-task", "X", "Ray's share of a GPU for each audit, such as 0.5. Default: 0.")
    ] = "0",
    stop_when: Annotated[
        str | None,
        _fleet("--stop-when", "green", "Say which checkpoint of a training run already met the tightest bound."),
    ] = None,
    resume: Resume = True,
    output: Output = None,
    **flags: Any,
) -> None:
    """Audit many checkpoints, each in its own process; what is done is not done twice.

    A bad one is a row that says why, and exit code 3 in the end; the others are audited all the same. Run it again to
    continue. Settings come from flags, files and variables as for run.
    """
    from peelaudit.cli.fleet import audit_fleet
    from peelaudit.cli.planning import FleetFlags

    own = FleetFlags(
        out=out,
        jobs=jobs,
        threads=threads,
        retries=retries,
        shard=shard,
        engine=engine,
        gpus_per_task=gpus_per_task,
        stop_when=stop_when,
        outputs=output or (),
        resume=resume,
    )
    audit_fleet(checkpoints, flags, own, format_name, quiet=quiet)


@app.command(cls=GroupedCommand)
@with_flags(AUDIT, GATE)
def watch(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="The directory below which a training run saves its checkpoints.")
    ],
    out: Out,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="On stdout: table, a line as each audit ends, or json, in the end.",
            rich_help_panel=OUTPUT,
        ),
    ] = "table",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No failures, no warnings on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    settle: Annotated[
        str, _fleet("--settle", "SECONDS", "For how long a checkpoint's files must lie still first. Default: 10.")
    ] = "10",
    idle: Annotated[
        str | None, _fleet("--idle", "SECONDS", "End once nothing has changed for so long. Default: never.")
    ] = None,
    stop_when: Annotated[
        str | None,
        _fleet("--stop-when", "green", "End once a checkpoint has met the run's tightest bound so far."),
    ] = None,
    jobs: Jobs = None,
    threads: Threads = None,
    retries: Retries = "0",
    resume: Resume = True,
    output: Output = None,
    **flags: Any,
) -> None:
    """Audit a training run's checkpoints as they appear, each once, and keep its series current.

    A checkpoint that is being written is waited for. It ends by --stop-when, --idle or a signal; run it again to
    continue. RESULTS is what batch makes, and the two can share one.
    """
    from peelaudit.cli.planning import FleetFlags
    from peelaudit.cli.watch import watch_run

    own = FleetFlags(
        out=out,
        jobs=jobs,
        threads=threads,
        retries=retries,
        stop_when=stop_when,
        outputs=output or (),
        resume=resume,
    )
    watch_run(directory, flags, own, settle=settle, idle=idle, format_name=format_name, quiet=quiet)


@app.command()
def status(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="What batch or watch was given as --out.")],
    format_name: Annotated[str, typer.Option("--format", "-f", metavar="NAME", help="table or json.")] = "table",
) -> None:
    """Say how far a batch is: what is done, failed and why, running, pending."""
    from peelaudit.cli.fleet import show_status

    show_status(results, format_name)


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint: a file or a directory.")],
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="PATH", help="A config.json, or its directory, for a checkpoint that has none."
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", metavar="DIR", help="A LoRA adapter of peft, merged into the checkpoint's weights."),
    ] = None,
    format_name: Annotated[str, typer.Option("--format", "-f", metavar="NAME", help="table or json.")] = "table",
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Read the weights, and list the tensors and their low-bit grids.")
    ] = False,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Read the weights, and hold the network to transformers' own, as an audit does first.",
        ),
    ] = False,
) -> None:
    """Say what a checkpoint is, from its headers alone.

    Its format, family, sizes, tokenizer, training step and fingerprint.
    """
    from peelaudit.cli.commands import inspect_checkpoint

    inspect_checkpoint(
        checkpoint, config=config, adapter=adapter, format_name=format_name, tensors=tensors, prove=prove
    )


@app.command(cls=GroupedCommand)
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


@app.command(cls=GroupedCommand)
@with_flags(AUDIT)
def selftest(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A healthy checkpoint: a file or a directory.")],
    faults: Annotated[
        str | None,
        typer.Option(
            "--faults",
            metavar="A,B",
            help="Which to plant: reinitialised, noised, mlp-zeroed, attention-zeroed, head-scrambled, one-bit, "
            "expert-reinitialised, router-reinitialised, rolled-back, or none. Default: all, the last with --earlier.",
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", metavar="1,3-5", help="The layers to damage. Default: all.")
    ] = None,
    redraws: Annotated[
        str, typer.Option("--redraws", metavar="N", help="Draws of the text without a fault. Default: 10.")
    ] = "10",
    earlier: Annotated[
        str | None, typer.Option("--earlier", metavar="CKPT", help="An earlier checkpoint of the run, to roll back to.")
    ] = None,
    references: Annotated[
        bool,
        typer.Option(
            "--references/--no-references",
            help="Fit references to each damaged copy too, for its depth gaps and projection errors.",
        ),
    ] = True,
    format_name: Annotated[
        str, typer.Option("--format", "-f", metavar="NAME", help="table or json.", rich_help_panel=OUTPUT)
    ] = "table",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=OUTPUT)] = False,
    **flags: Any,
) -> None:
    """Damage copies of a checkpoint, layer by layer, and say which figures of an audit would have told.

    It says what the audit has the power to see on this model with this text. For a deep network, --no-references
    --effort quick is quick: looks and slopes alone.
    """
    from peelaudit.cli.selftest import SelftestFlags, run_selftest

    own = SelftestFlags(faults, layers, redraws, earlier, references)
    run_selftest(checkpoint, flags, own, format_name=format_name, quiet=quiet)


@app.command(cls=GroupedCommand)
@with_flags(FIX)
def fix(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint: a file or a directory.")],
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="DIR", help="The directory that is written.", rich_help_panel=OUTPUT),
    ],
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="1,3-5|named",
            help="Refine these blocks one after another, or those that an audit names. Default: all together.",
        ),
    ] = None,
    head: Annotated[bool, typer.Option("--head", help="Refit the head too.")] = False,
    untie: Annotated[
        bool, typer.Option("--untie", help="With --head: make a head of its own of one that is tied to the embedding.")
    ] = False,
    lora: Annotated[
        str | None,
        typer.Option("--lora", metavar="RANK", help="Write a LoRA adapter of that rank instead of a checkpoint."),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            "--drop",
            metavar="1,3-5|best",
            help="Leave these blocks out, or the one that costs least, if that is within the tolerance.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what an earlier fix wrote there.", rich_help_panel=OUTPUT)
    ] = False,
    format_name: Annotated[
        str, typer.Option("--format", "-f", metavar="NAME", help="table or json.", rich_help_panel=OUTPUT)
    ] = "table",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no warnings on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    **flags: Any,
) -> None:
    """Write a checkpoint whose refined blocks predict better, and prove it by reading that back.

    In the checkpoint's own format and dtype; packed weights and GGUF become a directory of floats. Exit code 4 means
    that nothing gains on held-out text, and nothing was written.
    """
    from peelaudit.cli.fix import FixFlags, fix_checkpoint

    own = FixFlags(out, layers, head, untie, lora, drop, force)
    fix_checkpoint(checkpoint, flags, own, format_name=format_name, quiet=quiet)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove it all: such audits begin anew.")] = False,
) -> None:
    """Say where audits that were killed have left what they had found, and how much that is.

    An audit's part goes once its report is written, and the oldest as the size limit is reached.
    """
    from peelaudit.cli.commands import show_cache

    show_cache(clear=clear)


@app.command()
def schema() -> None:
    """Print the JSON schema (draft 2020-12) of the JSON report."""
    from peelaudit.cli.commands import print_schema

    print_schema()
