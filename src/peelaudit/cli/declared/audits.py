"""Audits of one checkpoint, and what is made of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from peelaudit.cli.declared.common import Checkpoint, Full, Output, Resume, computing, silenced, stdout
from peelaudit.cli.options import AUDIT, FIX, GATE, OUTPUT, SELFTEST, with_flags

__all__ = ["fix", "run", "selftest"]


@with_flags(AUDIT, GATE)
def run(
    checkpoint: Checkpoint,
    format_name: Annotated[str, stdout("table, json, csv, markdown, html, junit or github")] = "table",
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
    engine: Annotated[
        str,
        computing("--engine", "NAME", "local, or ray: layers' gaps are tasks of a Ray cluster. Default: local."),
    ] = "local",
    jobs: Annotated[str | None, computing("--jobs", "N", "Tasks at a time, with ray. Default: what fits.")] = None,
    gpus_per_task: Annotated[
        str, computing("--gpus-per-task", "X", "Ray's share of a GPU for each task, such as 0.5. Default: 0.")
    ] = "0",
    quiet: Annotated[bool, silenced("No progress, no warnings on stderr")] = False,
    resume: Resume = True,
    **flags: Any,
) -> None:
    """Audit a checkpoint layer by layer.

    Flags win over peelaudit.toml (or tool.peelaudit in pyproject.toml), that over PEELAUDIT_NAME in the environment.
    Exit code 1 means that the gate failed, and nothing else.
    """
    from peelaudit.cli.commands import run_audit
    from peelaudit.cli.planning import ClusterFlags

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
        cluster=ClusterFlags(engine=engine, jobs=jobs, gpus_per_task=gpus_per_task),
    )


@with_flags(SELFTEST)
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
    format_name: Annotated[str, stdout("table or json")] = "table",
    quiet: Annotated[bool, silenced("No progress")] = False,
    **flags: Any,
) -> None:
    """Damage copies of a checkpoint, layer by layer, and say which figures of an audit would have told.

    It says what the audit has the power to see on this model with this text. For a deep network, --no-references
    --effort quick is quick: looks and slopes alone.
    """
    from peelaudit.cli.selftest import SelftestFlags, run_selftest

    own = SelftestFlags(faults, layers, redraws, earlier, references)
    run_selftest(checkpoint, flags, own, format_name=format_name, quiet=quiet)


@with_flags(FIX)
def fix(
    checkpoint: Checkpoint,
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
    format_name: Annotated[str, stdout("table or json")] = "table",
    quiet: Annotated[bool, silenced("No progress, no warnings on stderr")] = False,
    **flags: Any,
) -> None:
    """Write a checkpoint whose refined blocks predict better, and prove it by reading that back.

    In the checkpoint's own format and dtype; packed weights and GGUF become a directory of floats. Exit code 4 means
    that nothing gains on held-out text, and nothing was written.
    """
    from peelaudit.cli.fix import FixFlags, fix_checkpoint

    own = FixFlags(out, layers, head, untie, lora, drop, force)
    fix_checkpoint(checkpoint, flags, own, format_name=format_name, quiet=quiet)
