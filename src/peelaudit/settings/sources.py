"""Values by setting, the strongest source added last, with the words for where each came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from peelaudit.errors import ConfigError
from peelaudit.settings.audit import SETTINGS
from peelaudit.settings.declared import VARIABLE_PREFIX, Setting
from peelaudit.settings.files import Found, shown
from peelaudit.settings.gate import GATE_SETTINGS
from peelaudit.settings.kinds import PATH, PATHS, Kind

__all__ = ["SECTIONS", "Sources"]

SECTIONS = ("gate", "suppress")
"""Tables of the file that are no settings of an audit."""
_FLAG_ONLY = ("checkpoint", "format", "output", "quiet")
T = TypeVar("T")


class Sources:
    """Flags over a table of the file over the environment, for one group of settings.

    Args:
        settings: the group.
        section: the table of the file that has them; None for the file's own.
    """

    def __init__(self, settings: Mapping[str, Setting], section: str | None = None) -> None:
        self.values: dict[str, object] = {}
        self.problems: list[str] = []
        self._settings, self._section = settings, section
        self._origins: dict[str, str] = {}

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """A variable for each setting; an empty one counts as unset."""
        for variable in sorted(environ):
            name = variable.removeprefix(VARIABLE_PREFIX).lower()
            if not variable.startswith(VARIABLE_PREFIX) or not environ[variable]:
                continue
            if name in self._settings:
                kind, text = self._settings[name].kind, environ[variable]
                texts = text.split(os.pathsep) if kind is PATHS else [text]
                self._add(name, variable, text, partial(kind.from_text, texts))
            elif name not in SETTINGS and name not in GATE_SETTINGS and (close := self._closest(name, cutoff=0.75)):
                # One that resembles no setting may be anybody's.
                self.problems.append(f"{variable}: no such setting; did you mean {close.variable}?")

    def add_file(self, found: Found | None) -> None:
        """The table's keys, `-` for `_`."""
        table = None if found is None else self._table(found)
        if found is None or table is None:
            return
        seen: dict[str, str] = {}
        for key, value in table.items():
            name = key.replace("-", "_")
            origin = f"{self._section}.{key} in {found.path}" if self._section else f"{key} in {found.path}"
            if not self._section and key in SECTIONS:
                continue
            if name not in self._settings:
                self.problems.append(f"{origin}: {self._unknown(name)}")
            elif name in seen:
                self.problems.append(f"{origin} is given twice, as {seen[name]} too")
            else:
                seen[name] = key
                self._add(name, origin, value, partial(_from_file, self._settings[name].kind, value, found.path.parent))

    def _table(self, found: Found) -> Mapping[str, object] | None:
        table = found.table.get(self._section) if self._section else found.table
        if table is None or isinstance(table, Mapping):
            return table
        self.problems.append(f"{self._section} in {found.path} is {shown(table)}: expected a table")
        return None

    def add_flags(self, flags: Mapping[str, str | Sequence[str] | bool | None]) -> None:
        """Values by setting, a switch's as it is; None, or no value, where the flag wasn't given."""
        for name, given in flags.items():
            if given is None:
                continue
            flag, kind = self._settings[name].flag, self._settings[name].kind
            if isinstance(given, bool):
                self._add(name, flag, given, partial(kind.from_toml, given))
            elif given:
                texts = [given] if isinstance(given, str) else given
                self._add(name, flag, texts[0] if len(texts) == 1 else texts, partial(kind.from_text, texts))
            elif given == "":
                self.problems.append(f"{flag} is empty")

    def _add(self, name: str, origin: str, given: object, read: Callable[[], object]) -> None:
        try:
            self.values[name] = read()
        except (ValueError, OverflowError, ConfigError) as error:
            problems = error.problems if isinstance(error, ConfigError) else ()
            self.problems += [f"{origin}: {problem}" for problem in problems] or [
                f"{origin} is {shown(given)}: expected {self._settings[name].kind.expected}"
            ]
            # A stronger source that fails must not let a weaker one through as if it had been meant.
            self.values.pop(name, None)
        self._origins[name] = origin

    def build(self, make: Callable[..., T], **others: object) -> T:
        """`make` of the values that were read, and of `others` where none was.

        Raises:
            ConfigError: for every problem: those found so far, and those of the settings that could be read.
        """
        try:
            made = make(**{**others, **self.values})
        except ConfigError as error:
            self.problems += [self._with_origin(problem) for problem in error.problems]
        if self.problems:
            raise ConfigError(*self.problems)
        return made

    def _with_origin(self, problem: str) -> str:
        """The problems of what is made begin with the setting's name."""
        name, _, rest = problem.partition(" ")
        return f"{self._origins.get(name.replace('-', '_'), name)} {rest}"

    def _unknown(self, name: str) -> str:
        if name in GATE_SETTINGS:
            return "belongs in the table `gate`"
        if name in SETTINGS:
            return "a setting of the audit, which stands above the table `gate`"
        if name in _FLAG_ONLY:
            return "belongs on the command line, not in a file"
        if name == "tool":
            return (
                "no such setting; [tool.peelaudit] is for pyproject.toml, the keys of peelaudit.toml stand at the top"
            )
        close = self._closest(name, cutoff=0.6)
        return "no such setting" + (f"; did you mean {close.key}?" if close else "")

    def _closest(self, name: str, *, cutoff: float) -> Setting | None:
        from difflib import get_close_matches  # here, for it is only imported once there is a mistake

        return next((self._settings[one] for one in get_close_matches(name, self._settings, n=1, cutoff=cutoff)), None)


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
