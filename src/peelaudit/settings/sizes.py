"""Sizes of memory as they are written: `2GiB`, `1.5GB`, `800M`."""

from __future__ import annotations

import re

from peelaudit.errors import ConfigError

__all__ = ["parse_size", "written_size"]

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([KMGT]?)(i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """The bytes that a text says. `1GB` is a thousand million, `1GiB` 2 to the 30th, and `1G` too.

    Raises:
        ConfigError: it says no size.
    """
    found = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or not (size := _bytes(found)):
        raise ConfigError(f"max-memory is {text!r}: expected a size such as 2GiB or 800MB")
    return size


def _bytes(found: re.Match[str]) -> int:
    number, unit, binary = found.groups()
    decimal = found[0].upper().endswith("B") and not binary
    return int(float(number) * (1000 if decimal else 1024) ** _POWERS[unit.upper()])


def written_size(size: float) -> str:
    """A size that is at least this, in GiB or MiB."""
    mib = -(-size // (1 << 20))
    return f"{mib:.0f}MiB" if mib < 1024 else f"{-(-mib * 10 // 1024) / 10:.1f}GiB"
