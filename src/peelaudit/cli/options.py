"""The flags that several commands share: those of an audit's settings and of a gate, in groups.

Texts alone, and switches: `settings` reads them and names every mistake.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from peelaudit.settings import default_of

__all__ = ["AUDIT", "COMPARISON", "GATE", "OUTPUT", "GroupedCommand", "with_flags"]

_DATA, _METHOD, _COMPUTE, _GATE, OUTPUT = "Calibration data", "Method", "Computing", "Gate", "Output"

_Command = TypeVar("_Command", bound=Callable[..., None])


class GroupedCommand(TyperCommand):
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


Flags = tuple[tuple[str, str, str, str], ...]
"""Name, metavar (none for a switch), group and help of each."""

_REPEATABLE = ("data", "schedules", "fail_over", "fail_on", "fail_regression")

AUDIT: Flags = (
    ("data", "PATH", _DATA, "Text or token files, or directories of them. Repeatable."),
    ("tokens", "N", _DATA, "Tokens to use at most, all splits together."),
    ("seq_len", "N", _DATA, "Tokens a sequence; chosen by --tokens and the context if not given."),
    ("split", "A,B,C", _DATA, "Per cent for fit, select and held-out."),
    ("field", "NAME", _DATA, "The text's key in .jsonl and .parquet."),
    ("separator", "TEXT", _DATA, "What stands between documents in a .txt; found if not given."),
    ("tokenizer", "PATH", _DATA, "A tokenizer, if the checkpoint has none or another."),
    (
        "schedules",
        "SPEC",
        _METHOD,
        (
            "Which references to fit: direct, final, prefix:m, every:m, via:a,b, without:a,b, yes:k, search:k, all, "
            "default, or one target a layer such as 1,1,1,4. Several are separated by ; or blanks. Repeatable."
        ),
    ),
    ("solver", "NAME", _METHOD, "ridge, adam or ridge+adam: how a block is fitted."),
    ("init", "NAME", _METHOD, "trained or random: where adam starts."),
    ("steps", "N", _METHOD, "Adam steps a block."),
    (
        "bits",
        "SET",
        _METHOD,
        (
            "What weights and references are held to: auto (as the checkpoint is), float (no bits for references), "
            "binary, ternary, int2, int3, int4 or int8; behind it :tensor, :row or :g32, what shares a scale, and "
            ":zero or :free for integers that aren't symmetric. Other weights are rounded to it first."
        ),
    ),
    ("bits_on", "NAME", _METHOD, "all or mlp-and-output: the matrices that such a set is for."),
    ("float_reference", "", _METHOD, "Fit float references too, beside low-bit ones: what the bits cost."),
    ("readout", "NAME", _METHOD, "own, refit or lens: how the network's states become predictions."),
    ("depth_readout", "NAME", _METHOD, "The same, for the layers below the last."),
    (
        "repair",
        "NAME",
        _METHOD,
        "off, cheap (one step) or thorough: how far each block alone is repaired, to name the layers that gain most.",
    ),
    ("resamples", "N", _METHOD, "Bootstrap draws for the intervals."),
    ("seed", "N", _METHOD, "Of splits, minibatches and bootstrap."),
    ("config", "FILE", _COMPUTE, "A config.json for a checkpoint that has none."),
    ("device", "NAME", _COMPUTE, "auto, cpu, cuda or mps."),
    ("dtype", "NAME", _COMPUTE, "What blocks compute in: float32 (auto), bfloat16, float16 or float64."),
)
"""Of every setting of an audit."""

GATE: Flags = (
    (
        "fail_over",
        "RULE",
        _GATE,
        (
            "Fail where a held-out figure is over its limit, interval and all: gap_layers=0.05, layer.gap=0.02, "
            "layer[1-3,7].gap=0.02. In nats/token. Repeatable."
        ),
    ),
    (
        "fail_on",
        "WHAT",
        _GATE,
        (
            "Fail where the held-out verdict is red, yellow (or worse) or grey, or where a layer is named for its "
            "looks, its slopes or its repair gap. Repeatable."
        ),
    ),
    (
        "fail_regression",
        "RULE",
        _GATE,
        (
            "Fail where a figure has risen since the baseline by more than trained_loss=1% of it, or =0.01 nats/token, "
            "paired on the same tokens. Repeatable."
        ),
    ),
    ("baseline", "REPORT", _GATE, "The JSON report that --fail-regression compares with."),
    (
        "on_inconclusive",
        "WHAT",
        _GATE,
        "What becomes of a check whose interval straddles its limit: warn, pass or fail. Default: warn.",
    ),
)
"""Of a gate."""

COMPARISON: Flags = tuple(flag for flag in GATE if flag[0] in ("fail_regression", "on_inconclusive"))
"""Of a gate, where the baseline is an argument."""

_AUDIT_NAMES = frozenset(name for name, *_ in AUDIT)


def with_flags(*groups: Flags) -> Callable[[_Command], _Command]:
    """Give a command these flags as its keywords, texts alone. Its `**flags` takes them.

    They stand behind the command's arguments and before its own options.
    """

    def decorate(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        arguments = [parameter for parameter in own if parameter.default is parameter.empty]
        options = [parameter for parameter in own if parameter.default is not parameter.empty]
        flags = [_parameter(*flag) for group in groups for flag in group]
        command.__signature__ = signature.replace(parameters=[*arguments, *flags, *options])  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(name: str, metavar: str, panel: str, text: str) -> inspect.Parameter:
    """One flag. A setting's default is shown, not given: a file or a variable may say otherwise."""
    flag, default = "--" + name.replace("_", "-"), default_of(name) if name in _AUDIT_NAMES else ""
    words = f"{text} Default: {default}." if default else text
    option = typer.Option(flag, metavar=metavar, help=words, rich_help_panel=panel, show_default=False)
    annotation: Any = Annotated[list[str] | None, option] if name in _REPEATABLE else Annotated[str | None, option]
    if not metavar:
        switch = typer.Option(f"{flag}/--no{flag[1:]}", help=words, rich_help_panel=panel, show_default=False)
        annotation = Annotated[bool | None, switch]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)
