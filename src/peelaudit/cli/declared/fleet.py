"""Many checkpoints, and what unfinished audits leave."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from peelaudit.cli.declared.common import Output, Resume, silenced, stdout
from peelaudit.cli.options import AUDIT, GATE, OUTPUT, with_flags

__all__ = ["batch", "cache", "status", "watch"]


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
    format_name: Annotated[str, stdout("table or json")] = "table",
    quiet: Annotated[bool, silenced("No progress, no failures on stderr")] = False,
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


@with_flags(AUDIT, GATE)
def watch(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="The directory below which a training run saves its checkpoints.")
    ],
    out: Out,
    format_name: Annotated[str, stdout("table, a line as each audit ends, or json, in the end")] = "table",
    quiet: Annotated[bool, silenced("No failures, no warnings on stderr")] = False,
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


def status(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="What batch or watch was given as --out.")],
    format_name: Annotated[str, stdout("table or json")] = "table",
) -> None:
    """Say how far a batch is: what is done, failed and why, running, pending."""
    from peelaudit.cli.fleet import show_status

    show_status(results, format_name)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove it all: such audits begin anew.")] = False,
) -> None:
    """Say where audits that were killed have left what they had found, and how much that is.

    An audit's part goes once its report is written, and the oldest as the size limit is reached.
    """
    from peelaudit.cli.commands import show_cache

    show_cache(clear=clear)
