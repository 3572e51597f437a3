"""Checkpoints as they are, and one beside another."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from peelaudit.cli.declared.common import Checkpoint, silenced, stdout
from peelaudit.cli.options import DIFFERENCE, OUTPUT, with_flags

__all__ = ["budget", "diff", "inspect"]


def inspect(
    checkpoint: Checkpoint,
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
    format_name: Annotated[str, stdout("table or json")] = "table",
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
    format_name: Annotated[str, stdout("table, json, markdown or html")] = "table",
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="[FORMAT=]PATH",
            help="Write a file as well; .json, .md, .html and .txt tell the format. Repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    quiet: Annotated[bool, silenced("No progress, no warnings on stderr")] = False,
    **flags: Any,
) -> None:
    """Say which part of one checkpoint makes it better or worse than another, by swapping them.

    Each block of NEW in BASE, and of BASE in NEW; their tensors are compared as well, for what conversions break. The
    text is cut by BASE's tokenizer; an adapter is merged into NEW.
    """
    from peelaudit.cli.differing import DiffFlags, run_diff

    own = DiffFlags(passes, fail_over)
    run_diff(base, new, flags, own, format_name=format_name, outputs=output or (), quiet=quiet)


@with_flags(DIFFERENCE)
def budget(
    checkpoint: Checkpoint,
    average: Annotated[
        str,
        typer.Option(
            "--average",
            metavar="BITS",
            help="Bits that a weight of the blocks has on average, its share of the scales not counted.",
            rich_help_panel="Method",
        ),
    ],
    widths: Annotated[
        str,
        typer.Option(
            "--widths",
            metavar="2,3,4",
            help="The widths that are tried, of 2, 3, 4, 5, 6 and 8 bits. Default: 2,3,4,5,6,8.",
            show_default=False,
            rich_help_panel="Method",
        ),
    ] = "2,3,4,5,6,8",
    group: Annotated[
        str,
        typer.Option(
            "--group",
            metavar="N",
            help="Neighbouring inputs that share a scale, whatever the width. Default: 32.",
            show_default=False,
            rich_help_panel="Method",
        ),
    ] = "32",
    passes: Annotated[
        str,
        typer.Option(
            "--passes",
            metavar="N",
            help="Forward passes over all tokens that measuring may take, or all: where that isn't enough, plans are "
            "chosen on fewer sequences. Default: 32.",
            show_default=False,
            rich_help_panel="Method",
        ),
    ] = "32",
    format_name: Annotated[str, stdout("table, json or llama.cpp")] = "table",
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="[FORMAT=]PATH",
            help="Write a file as well; .json, .tensor-types (llama.cpp) and .txt tell the format. Repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    quiet: Annotated[bool, silenced("No progress, no warnings on stderr")] = False,
    **flags: Any,
) -> None:
    """Say how many bits each matrix should be rounded to, for the least loss at so many on average.

    Each matrix of each block is rounded alone, in memory, at several widths; the network that comes of it is held to
    one with as many bits given out evenly, on text that nothing was chosen by.
    """
    from peelaudit.cli.budget import BudgetFlags, run_budget

    own = BudgetFlags(average, widths, group, passes)
    run_budget(checkpoint, flags, own, format_name=format_name, outputs=output or (), quiet=quiet)
