"""The suppressions of a configuration file: [[suppress]] in peelaudit.toml, [[tool.peelaudit.suppress]] in
pyproject.toml.

    [[suppress]]
    checkpoint = "runs/*/ckpt.pt"       # a glob for the path as reported, or for its last parts; required
    layer = "2-3"                       # a number, or numbers and ranges; all rows if not given
    metric = "gap"                      # a field, of a layer or, as gap_layers, of the network; or
    rule = "layer.gap=0.02"             # a rule as it is written; all if neither is given
    reason = "known since #12"          # required
    expires = 2026-12-31                # a date, the last day on which it counts; required
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import PurePath

from peelaudit.errors import ConfigError
from peelaudit.settings.files import Found, shown
from peelaudit.settings.gate import Suppression
from peelaudit.settings.rules import Selector, parse_metric, parse_selector

__all__ = ["read_suppressions"]


def read_suppressions(found: Found | None) -> tuple[Suppression, ...]:
    """The file's suppressions.

    Raises:
        ConfigError: with every mistake in `problems`, each with its key, number and file.
    """
    items = [] if found is None else found.table.get("suppress", [])
    if found is None or not items:
        return ()
    if not isinstance(items, list):
        raise ConfigError(f"suppress in {found.path} is {shown(items)}: expected an array of tables, [[suppress]]")
    problems: list[str] = []
    suppressions: list[Suppression] = []
    for number, item in enumerate(items, 1):
        try:
            suppressions.append(_suppression(item))
        except ConfigError as error:
            problems += [f"suppress {number} in {found.path}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(*problems)
    return tuple(suppressions)


def _suppression(item: object) -> Suppression:
    if not isinstance(item, Mapping):
        raise ConfigError(f"{shown(item)} is no table")
    problems = [f"{key} is not one of {', '.join(_KEYS)}" for key in item if key not in _KEYS]
    values: dict[str, object] = {}
    for key, (read, required) in _KEYS.items():
        if key not in item:
            problems += [f"{key} is missing"] * required
            continue
        try:
            values[key] = read(item[key])
        except ConfigError as error:
            problems += [f"{key} is {shown(item[key])}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(*problems)
    optional = {key: values.get(key) for key in ("metric", "rule")}
    return Suppression(
        checkpoint=values["checkpoint"],  # type: ignore[arg-type]  # read by _KEYS, like the rest
        layers=values.get("layer"),  # type: ignore[arg-type]
        reason=values["reason"],  # type: ignore[arg-type]
        expires=values["expires"],  # type: ignore[arg-type]
        **optional,  # type: ignore[arg-type]
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError("expected a text that is not empty")
    return value


def _glob(value: object) -> str:
    pattern = _text(value)
    try:
        PurePath("x").match(pattern)
    except ValueError as error:
        raise ConfigError("expected a glob such as runs/*/ckpt.pt") from error
    return pattern


def _layers(value: object) -> Selector:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return parse_selector(_text(value))


def _metric(value: object) -> str:
    return parse_metric(_text(value))


def _date(value: object) -> datetime.date:
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise ConfigError("expected a date such as 2026-12-31, without quotes")
    return value


_KEYS: Mapping[str, tuple[Callable[[object], object], bool]] = {
    "checkpoint": (_glob, True),
    "layer": (_layers, False),
    "metric": (_metric, False),
    "rule": (_text, False),
    "reason": (_text, True),
    "expires": (_date, True),
}
"""How each key is read, and whether it is required."""
