"""JSON that strangers wrote: no key twice, and no more values than its reader can use."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

__all__ = ["check_count", "decoder", "parse"]

MOST_VALUES = 4_000_000
"""Of one text: as Python's objects they take some hundred megabytes at most."""


def parse(text: str, *, constant: Callable[[str], object] | None = None) -> Any:
    """The value of a JSON text.

    Args:
        text: of any length.
        constant: what is made of NaN, Infinity and -Infinity; Python's own floats if None.

    Raises:
        ValueError: it isn't JSON (a JSONDecodeError), is nested too deeply, has a key of an object twice, or so many
            values that they would fill the memory. What `constant` raises.
    """
    check_count(text)
    try:
        return decoder(constant).decode(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def check_count(text: str) -> None:
    """Raise ValueError where a text may have more than `MOST_VALUES` values, before any is built."""
    if text.count(",") + text.count("[") + text.count("{") > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")


def decoder(constant: Callable[[str], object] | None = None) -> json.JSONDecoder:
    """One that refuses a key given twice by a ValueError, for values among others; `constant` as in `parse`."""
    return json.JSONDecoder(object_pairs_hook=_once, parse_constant=constant)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    whole = dict(pairs)
    if len(whole) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {_shown(name)} occurs twice")
            seen.add(name)
    return whole


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 40 else f"{name[:39]}…")
