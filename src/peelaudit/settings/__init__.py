"""The settings of a run: flags over a TOML file over the environment over the defaults, every mistake named at once.

    --seq-len 256                               a flag
    seq-len = 256                               in peelaudit.toml, or under [tool.peelaudit] in pyproject.toml
    PEELAUDIT_SEQ_LEN=256                       a variable; an empty one counts as unset

The file is the nearest one from the current directory up to the repository's root (the first folder with a `.git`), and
outside a repository that of the current directory alone. Paths in it are relative to it. Two files in one folder are a
mistake, for neither could win without surprise. `PEELAUDIT_DATA` holds several paths, separated as in `PATH`.

Schedules are separated by `;` or white space, since an explicit mapping has commas itself: `direct; prefix:2 1,1,1,4`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from peelaudit.config import AuditConfig
from peelaudit.errors import ConfigError
from peelaudit.settings.files import find_table, shown
from peelaudit.settings.kinds import PATH, PATHS, SETTINGS, Kind

__all__ = ["SETTINGS", "VARIABLE_PREFIX", "default_of", "resolve"]

VARIABLE_PREFIX = "PEELAUDIT_"
_FLAG_ONLY = ("checkpoint", "format", "output", "quiet")


def default_of(name: str) -> str:
    """The default of setting `name`, as a flag would be written; empty where there is none."""
    value = next(field.default for field in dataclasses.fields(AuditConfig) if field.name == name)
    if name == "split":
        return ",".join(f"{100 * share:g}" for share in AuditConfig(checkpoint="-").split)
    if isinstance(value, tuple):
        return " ".join(value)
    return "" if value is None else str(value)


def resolve(
    checkpoint: str,
    flags: Mapping[str, str | Sequence[str] | None],
    *,
    environ: Mapping[str, str],
    directory: Path,
) -> AuditConfig:
    """The settings of a run on `checkpoint`.

    Args:
        checkpoint: the file or directory to audit.
        flags: values by setting; None, or no value, where the flag wasn't given.
        environ: the environment's variables.
        directory: where the search for a TOML file starts.

    Raises:
        ConfigError: with every mistake in `problems`, each with its flag, file and key, or variable.
    """
    layers = _Layers()
    if not checkpoint:
        layers.problems.append("the checkpoint's path is empty")
    layers.add_environment(environ)
    layers.add_file(directory)
    layers.add_flags(flags)
    return layers.config(checkpoint)


class _Layers:
    """Values by setting, the strongest layer added last, with the words for where each came from."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []

    def add_environment(self, environ: Mapping[str, str]) -> None:
        for variable in sorted(environ):
            name = variable.removeprefix(VARIABLE_PREFIX).lower()
            if not variable.startswith(VARIABLE_PREFIX) or not environ[variable]:
                continue
            if name in SETTINGS:
                texts = environ[variable].split(os.pathsep) if name == "data" else [environ[variable]]
                self._add(name, variable, environ[variable], partial(SETTINGS[name].from_text, texts))
            elif close := _closest(name, cutoff=0.75):
                # One that resembles no setting may be anybody's.
                self.problems.append(f"{variable}: no such setting; did you mean {VARIABLE_PREFIX}{close.upper()}?")

    def add_file(self, directory: Path) -> None:
        try:
            found = find_table(directory)
        except ConfigError as error:
            self.problems += error.problems
            return
        if found is None:
            return
        path, table = found
        seen: dict[str, str] = {}
        for key, value in table.items():
            name = key.replace("-", "_")
            origin = f"{key} in {path}"
            if name not in SETTINGS:
                self.problems.append(f"{origin}: {_unknown(name)}")
            elif name in seen:
                self.problems.append(f"{origin} is given twice, as {seen[name]} too")
            else:
                seen[name] = key
                self._add(name, origin, value, partial(_from_file, SETTINGS[name], value, path.parent))

    def add_flags(self, flags: Mapping[str, str | Sequence[str] | None]) -> None:
        for name, given in flags.items():
            if given:
                texts = [given] if isinstance(given, str) else given
                flag = "--" + name.replace("_", "-")
                self._add(name, flag, texts[0] if len(texts) == 1 else texts, partial(SETTINGS[name].from_text, texts))
            elif given == "":
                self.problems.append(f"--{name.replace('_', '-')} is empty")

    def _add(self, name: str, origin: str, given: object, read: Callable[[], object]) -> None:
        try:
            self.values[name] = read()
        except (ValueError, OverflowError):
            self.problems.append(f"{origin} is {shown(given)}: expected {SETTINGS[name].expected}")
            # A stronger layer that fails must not let a weaker one through as if it had been meant.
            self.values.pop(name, None)
        self.origins[name] = origin

    def config(self, checkpoint: str) -> AuditConfig:
        """Raise for every problem: those found so far, and those of the settings that could be read."""
        try:
            config = AuditConfig(checkpoint=checkpoint, **self.values)  # type: ignore[arg-type]  # read by SETTINGS
        except ConfigError as error:
            self.problems += [self._with_origin(problem) for problem in error.problems]
        if self.problems:
            raise ConfigError(*self.problems)
        return config

    def _with_origin(self, problem: str) -> str:
        """`AuditConfig`'s problems begin with the setting's name."""
        name, _, rest = problem.partition(" ")
        return f"{self.origins.get(name.replace('-', '_'), name)} {rest}"


def _unknown(name: str) -> str:
    if name in _FLAG_ONLY:
        return "belongs on the command line, not in a file"
    if name == "tool":
        return "no such setting; [tool.peelaudit] is for pyproject.toml, the keys of peelaudit.toml stand at the top"
    close = _closest(name, cutoff=0.6)
    return "no such setting" + (f"; did you mean {close.replace('_', '-')}?" if close else "")


def _closest(name: str, *, cutoff: float) -> str | None:
    from difflib import get_close_matches  # here, for it is only imported once there is a mistake

    return next(iter(get_close_matches(name, SETTINGS, n=1, cutoff=cutoff)), None)


def _from_file(kind: Kind, given: object, folder: Path) -> object:
    """A value of a TOML file. Paths are relative to it."""
    value = kind.from_toml(given)
    if kind is PATH and isinstance(value, str):
        return _anchor(folder, value)
    if kind is PATHS and isinstance(value, tuple):
        return tuple(_anchor(folder, path) for path in value)
    return value


def _anchor(folder: Path, path: str) -> str:
    try:
        return str(folder / Path(path).expanduser())
    except RuntimeError as error:  # ~somebody without a home
        raise ValueError from error
