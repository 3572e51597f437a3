"""The flags that several commands share: those of an audit's settings and of a gate, in groups.

Texts alone, and switches: `settings` reads them and names every mistake.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from peelaudit.settings import GATE_SETTINGS, SETTINGS
from peelaudit.settings.command import DIFFERENCE_SETTINGS
from peelaudit.settings.declared import Setting, in_groups
from peelaudit.settings.kinds import SWITCH

__all__ = ["AUDIT", "COMPARISON", "DIFFERENCE", "FIX", "GATE", "OUTPUT", "SELFTEST", "GroupedCommand", "with_flags"]

OUTPUT = "Output"

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


AUDIT = in_groups(SETTINGS.values())
"""Of every setting of an audit."""

_FIX = ("schedules", "solver", "init", "steps", "readout", "depth_readout", "float_reference", "parent")
FIX = tuple(one for one in AUDIT if one.name not in _FIX)
"""Of what refines blocks: those of an audit that aren't of its other references, or of its words."""

SELFTEST = tuple(one for one in AUDIT if one.name != "parent")
"""Of audits of damaged copies, which are held against no other checkpoint."""

GATE = in_groups(GATE_SETTINGS.values())
"""Of a gate."""

COMPARISON = tuple(GATE_SETTINGS[name] for name in ("fail_regression", "on_inconclusive"))
"""Of a gate, where the baseline is an argument."""

DIFFERENCE = in_groups(SETTINGS[name] for name in DIFFERENCE_SETTINGS)
"""Of what two checkpoints' difference depends on."""


def with_flags(*groups: Iterable[Setting]) -> Callable[[_Command], _Command]:
    """Give a command the flags of these settings as its keywords, texts alone. Its `**flags` takes them.

    They stand behind the command's arguments and before its own options.
    """

    def decorate(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        arguments = [parameter for parameter in own if parameter.default is parameter.empty]
        options = [parameter for parameter in own if parameter.default is not parameter.empty]
        flags = [_parameter(setting) for group in groups for setting in group]
        # A signature (PEP 362's attribute, which typeshed doesn't know) is all that typer makes options of. A command's
        # class is handed finished ones, and what they are made of is private and differs between typer's versions.
        command.__signature__ = signature.replace(parameters=[*arguments, *flags, *options])  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(setting: Setting) -> inspect.Parameter:
    """One flag. A setting's default is shown, not given: a file or a variable may say otherwise."""
    switch = setting.kind is SWITCH
    option = typer.Option(
        f"{setting.flag}/{setting.negated}" if switch else setting.flag,
        metavar=setting.metavar or None,
        help=setting.help,
        rich_help_panel=setting.group,
        show_default=False,
    )
    given: Any = bool if switch else list[str] if setting.kind.repeatable else str
    annotation = Annotated[given | None, option]
    return inspect.Parameter(setting.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)
