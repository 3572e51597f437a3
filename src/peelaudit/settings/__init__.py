"""The settings of a run: flags over a TOML file over the environment over the defaults, every mistake named at once.

    --seq-len 256                               a flag
    seq-len = 256                               in peelaudit.toml, or under [tool.peelaudit] in pyproject.toml
    PEELAUDIT_SEQ_LEN=256                       a variable; an empty one counts as unset

The file is the nearest one from the current directory up to the repository's root (the first folder with a `.git`), and
outside a repository that of the current directory alone. Paths in it are relative to it. Two files in one folder are a
mistake, for neither could win without surprise. `PEELAUDIT_DATA` holds several paths, separated as in `PATH`.

The gate's settings are in the table `gate` ([gate] in peelaudit.toml, [tool.peelaudit.gate] in pyproject.toml), its
suppressions in the array `suppress`; see `settings/suppressions.py`.

Schedules are separated by `;` or white space, since an explicit mapping has commas itself: `direct; prefix:2 1,1,1,4`.
So are a gate's rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from peelaudit.errors import ConfigError
from peelaudit.settings.audit import SETTINGS, AuditConfig
from peelaudit.settings.declared import Setting
from peelaudit.settings.files import find_table
from peelaudit.settings.gate import GATE_SETTINGS, GatePolicy, Suppression
from peelaudit.settings.sources import Sources
from peelaudit.settings.suppressions import read_suppressions

__all__ = ["GATE_SETTINGS", "SETTINGS", "resolve", "resolve_gate"]


def resolve(
    checkpoint: str,
    flags: Mapping[str, str | Sequence[str] | bool | None],
    *,
    environ: Mapping[str, str],
    directory: Path,
    defaults: Mapping[str, object] | None = None,
) -> AuditConfig:
    """The settings of a run on `checkpoint`.

    Args:
        checkpoint: the file or directory to audit.
        flags: values by setting; None, or no value, where the flag wasn't given.
        environ: the environment's variables.
        directory: where the search for a TOML file starts.
        defaults: of settings that are given nowhere, where a command has others than `AuditConfig`.

    Raises:
        ConfigError: with every mistake in `problems`, each with its flag, file and key, or variable.
    """
    sources = _sources(SETTINGS, None, flags, environ, directory)
    if not checkpoint:
        sources.problems.append("the checkpoint's path is empty")
    return sources.build(AuditConfig, checkpoint=checkpoint, **(defaults or {}))


def resolve_gate(
    flags: Mapping[str, str | Sequence[str] | bool | None],
    *,
    environ: Mapping[str, str],
    directory: Path,
) -> GatePolicy:
    """What the gate demands, from the same places, and the suppressions, from the file alone.

    Args:
        flags: values by setting of the gate; None, or no value, where the flag wasn't given.
        environ: the environment's variables.
        directory: where the search for a TOML file starts.

    Raises:
        ConfigError: with every mistake in `problems`, each with its flag, file and key, or variable.
    """
    sources = _sources(GATE_SETTINGS, "gate", flags, environ, directory)
    suppressions: tuple[Suppression, ...] = ()
    try:
        suppressions = read_suppressions(find_table(directory))
    except ConfigError as error:
        sources.problems += [problem for problem in error.problems if problem not in sources.problems]
    return sources.build(GatePolicy, suppressions=suppressions)


def _sources(
    settings: Mapping[str, Setting],
    section: str | None,
    flags: Mapping[str, str | Sequence[str] | bool | None],
    environ: Mapping[str, str],
    directory: Path,
) -> Sources:
    sources = Sources(settings, section)
    sources.add_environment(environ)
    try:
        sources.add_file(find_table(directory))
    except ConfigError as error:
        sources.problems += error.problems
    sources.add_flags(flags)
    return sources
