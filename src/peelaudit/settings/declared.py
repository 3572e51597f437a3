"""A setting's one declaration: what the configuration is checked by, and flags, variables and files are read by.

It stands at the field that holds the setting, so that a class of settings stays an ordinary dataclass:

    tokens: int = setting(16_384, WHOLE, Group.DATA, "N", "Tokens to use at most.", least=1)

and its flag (`--tokens`), its key in TOML and its variable (`PEELAUDIT_TOKENS`) follow from the field's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from peelaudit.settings.kinds import Kind

__all__ = ["VARIABLE_PREFIX", "Group", "Setting", "declared", "in_groups", "out_of_range", "setting"]

VARIABLE_PREFIX = "PEELAUDIT_"
_MOST = 2**32 - 1  # what every generator takes as a seed; far more than there can be of anything else
T = TypeVar("T")


class Group(StrEnum):
    """The headings of `--help` under which settings stand, in this order."""

    DATA = "Calibration data"
    METHOD = "Method"
    COMPUTING = "Computing"
    GATE = "Gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: the field's.
        default: the field's.
        kind: how a value is read and written.
        group: the heading of its flag in `--help`.
        metavar: what stands for the value there; empty for a switch.
        purpose: what it is for, there.
        choices: all values there are; none if they can't be listed.
        least: the least value of a number.
        seldom: whether its flag stands behind the others of its group.
    """

    name: str
    default: object
    kind: Kind
    group: Group
    metavar: str
    purpose: str
    choices: tuple[str, ...]
    least: int | None
    seldom: bool

    @property
    def key(self) -> str:
        """Its name in TOML and in messages."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """Its flag."""
        return f"--{self.key}"

    @property
    def negated(self) -> str:
        """The flag that turns a switch off."""
        return f"--no-{self.key}"

    @property
    def variable(self) -> str:
        """Its variable in the environment."""
        return f"{VARIABLE_PREFIX}{self.name.upper()}"

    @property
    def default_text(self) -> str:
        """The default as a flag would be written; empty where there is none."""
        return "" if self.default is None else self.kind.shown(self.default)

    @property
    def help(self) -> str:
        """What `--help` says of it."""
        return f"{self.purpose} Default: {self.default_text}." if self.default_text else self.purpose

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, beginning with the setting's key; None if it is in range."""
        if self.choices and value not in self.choices:
            return f"{self.key} is {value!r}: expected {' | '.join(self.choices)}"
        if self.least is None or value is None:
            return None
        if value < self.least:
            return f"{self.key} is {value}: expected {self.least} or more"
        return f"{self.key} is {value}: expected {_MOST} or less" if value > _MOST else None


def setting(
    default: T,
    kind: Kind,
    group: Group,
    metavar: str,
    purpose: str,
    *,
    choices: tuple[str, ...] = (),
    least: int | None = None,
    seldom: bool = False,
) -> T:
    """A dataclass's field that is a setting; the arguments are those of `Setting`."""
    declaration = {
        "kind": kind,
        "group": group,
        "metavar": metavar,
        "purpose": purpose,
        "choices": choices,
        "least": least,
        "seldom": seldom,
    }
    return dataclasses.field(default=default, metadata=declaration)


def declared(config: type) -> Mapping[str, Setting]:
    """A dataclass's settings by name. A field that was given no declaration is none."""
    return {
        field.name: Setting(name=field.name, default=field.default, **field.metadata)
        for field in dataclasses.fields(config)
        if field.metadata
    }


def out_of_range(config: object, settings: Iterable[Setting]) -> list[str]:
    """What is wrong with the settings that `config` holds, each by itself."""
    return [problem for one in settings if (problem := one.problem(getattr(config, one.name))) is not None]


def in_groups(settings: Iterable[Setting]) -> tuple[Setting, ...]:
    """Settings in the order of `--help`: group by group, what is seldom needed last in each."""
    groups = list(Group)
    return tuple(sorted(settings, key=lambda one: (groups.index(one.group), one.seldom)))
