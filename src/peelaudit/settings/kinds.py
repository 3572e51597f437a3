"""Kinds of settings: how a value is read from a flag's or a variable's text and from TOML, and how it is written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from peelaudit.errors import ConfigError
from peelaudit.settings.rules import FORBIDDEN, Forbidden, Rule, parse_rule

__all__ = [
    "FORBIDDEN_NAMES",
    "NUMBER",
    "PATH",
    "PATHS",
    "REGRESSION_RULES",
    "RULES",
    "SCHEDULES",
    "SPLIT",
    "SWITCH",
    "TEXT",
    "WHOLE",
    "Kind",
]


def _whole(texts: Sequence[str]) -> int:
    return int(texts[-1])


def _whole_toml(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError
    return value


def _number(texts: Sequence[str]) -> float:
    value = float(texts[-1])
    if not math.isfinite(value):
        raise ValueError
    return value


def _number_toml(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _text(texts: Sequence[str]) -> str:
    return texts[-1]


def _text_toml(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _path(texts: Sequence[str]) -> str:
    if not texts[-1] or "\0" in texts[-1]:
        raise ValueError
    return texts[-1]


def _path_toml(value: object) -> str:
    return _path([_text_toml(value)])


def _paths(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(_path([text]) for text in texts)


def _texts_toml(value: object) -> list[str]:
    return [_text_toml(item) for item in (value if isinstance(value, list) else [value])]


def _words(texts: Sequence[str]) -> tuple[str, ...]:
    """The words of all texts, which `;` separates too. White space beside a comma or an `=` belongs to its word."""
    return tuple(name for text in texts for name in re.sub(r"\s*([,=])\s*", r"\1", text).replace(";", " ").split())


def _rules(texts: Sequence[str], *, regression: bool) -> tuple[Rule, ...]:
    """Every rule of all texts, separated as schedules are."""
    rules: list[Rule] = []
    problems: list[str] = []
    for text in _words(texts):
        try:
            rules.append(parse_rule(text, regression=regression))
        except ConfigError as error:
            problems += error.problems
    if problems or not rules:
        raise ConfigError(*problems)
    return tuple(rules)


def _forbidden(texts: Sequence[str]) -> tuple[Forbidden, ...]:
    names = [name for text in texts for name in re.split(r"[\s,;]+", text.strip())]
    if not names or not set(names) <= set(FORBIDDEN):
        raise ValueError
    return tuple(next(one for one in FORBIDDEN if one == name) for name in dict.fromkeys(names))


def _shares(numbers: Sequence[float]) -> tuple[float, ...]:
    """Three shares that add up to 1, from shares or from per cent."""
    total = math.fsum(numbers)
    if len(numbers) != 3 or not all(number > 0 for number in numbers):
        raise ValueError
    if math.isclose(total, 100, rel_tol=1e-9):
        return tuple(number / 100 for number in numbers)
    if math.isclose(total, 1, rel_tol=1e-9):
        return tuple(numbers)
    raise ValueError


def _split(texts: Sequence[str]) -> tuple[float, ...]:
    return _shares([float(part) for part in texts[-1].split(",")])


def _split_toml(value: object) -> tuple[float, ...]:
    if isinstance(value, str):
        return _split([value])
    if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
        raise ValueError
    return _shares(value)


_SWITCHED = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _switch(texts: Sequence[str]) -> bool:
    if (text := texts[-1].lower()) not in _SWITCHED:
        raise ValueError
    return _SWITCHED[text]


def _switch_toml(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


# What a saved report has for a setting is written too, whatever it is: these ask no more of it than a text.


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _in_one(value: object) -> tuple[str, ...]:
    return (_shown(value),)


def _one_each(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)


def _exact_shares(value: object) -> tuple[str, ...]:
    return (",".join(map(repr, value)),) if isinstance(value, tuple) else (str(value),)


def _per_cent(shares: Sequence[float]) -> str:
    return ",".join(f"{100 * share:g}" for share in shares)


def _on_or_off(value: object) -> str:
    return "on" if value else "off"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a setting's value is read and written. Both readers raise ValueError for a value that isn't `expected`, or
    ConfigError where they can say more.
    """

    expected: str
    from_text: Callable[[Sequence[str]], object]
    """From a flag's values, or a variable's one."""
    from_toml: Callable[[object], object]
    repeatable: bool = False
    """Whether the flag may be given several times."""
    written: Callable[[Any], tuple[str, ...]] = _in_one
    """As a flag's values, from which the same is read again."""
    shown: Callable[[Any], str] = _shown
    """As a default in `--help`."""


SWITCH = Kind("true or false", _switch, _switch_toml, shown=_on_or_off)
WHOLE = Kind("a whole number", _whole, _whole_toml)
NUMBER = Kind("a number", _number, _number_toml)
TEXT = Kind("a text", _text, _text_toml)
PATH = Kind("a path", _path, _path_toml)
PATHS = Kind(
    "a path or a list of paths",
    _paths,
    lambda value: _paths(_texts_toml(value)),
    repeatable=True,
    written=_one_each,
)
SCHEDULES = Kind("a schedule or a list of schedules", _words, lambda value: _words(_texts_toml(value)), repeatable=True)
SPLIT = Kind(
    "three shares above 0 that add up to 100 or to 1, such as 60,15,25",
    _split,
    _split_toml,
    written=_exact_shares,
    shown=_per_cent,
)

_LIMITS, _REGRESSIONS = partial(_rules, regression=False), partial(_rules, regression=True)
RULES = Kind("a rule or a list of rules", _LIMITS, lambda value: _LIMITS(_texts_toml(value)), repeatable=True)
REGRESSION_RULES = Kind(
    "a rule or a list of rules", _REGRESSIONS, lambda value: _REGRESSIONS(_texts_toml(value)), repeatable=True
)
FORBIDDEN_NAMES = Kind(
    f"{' | '.join(FORBIDDEN)}, or a list of them",
    _forbidden,
    lambda value: _forbidden(_texts_toml(value)),
    repeatable=True,
)
