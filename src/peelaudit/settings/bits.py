"""The setting `bits`: how a low-bit set is written.

    auto                    as the checkpoint is
    float                   references are floats, whatever the checkpoint is
    binary                  -s and s; a scale for each output
    ternary                 -s, 0 and s; one scale for the matrix
    int2 | int3 | int4 | int8   2^b evenly spaced values, 0 in the middle; a scale for each output

and behind a colon each: `tensor`, `row` (an output) or `g32` (32 neighbouring inputs of an output) for what shares a
scale; for integers `zero` (0 on one of the values) or `free` (a minimum of its own).
"""

from __future__ import annotations

import math
import re
from typing import Literal

from peelaudit.errors import ConfigError
from peelaudit.records import Grid, GridKind, ScaleLayout, ZeroPoint

__all__ = ["EXPECTED_BITS", "parse_bits"]

EXPECTED_BITS = (
    "auto | float | binary | ternary | int2 | int3 | int4 | int8, and behind it :tensor, :row or :g32 for what shares "
    "a scale, :zero or :free for integers that aren't symmetric"
)

_KINDS = {
    "binary": (GridKind.BINARY, 1.0, ScaleLayout.ROW),
    "ternary": (GridKind.TERNARY, math.log2(3), ScaleLayout.TENSOR),
    **{f"int{bits}": (GridKind.INTEGER, float(bits), ScaleLayout.ROW) for bits in (2, 3, 4, 8)},
}
_LAYOUTS = {"tensor": ScaleLayout.TENSOR, "row": ScaleLayout.ROW}
_ZEROS = {"zero": ZeroPoint.INTEGER, "free": ZeroPoint.FREE}


def parse_bits(text: str) -> Grid | Literal["auto", "float"]:
    """What a text asks for.

    Raises:
        ConfigError: it is none of these.
    """
    if text in ("auto", "float"):
        return "auto" if text == "auto" else "float"
    name, *words = text.split(":")
    try:
        kind, bits, layout = _KINDS[name]
        group, zero = None, ZeroPoint.SYMMETRIC
        for word in words:
            if found := re.fullmatch(r"g([1-9][0-9]{0,8})", word):
                layout, group = ScaleLayout.GROUP, int(found[1])
            elif word in _LAYOUTS:
                layout, group = _LAYOUTS[word], None
            elif kind is GridKind.INTEGER:
                zero = _ZEROS[word]
            else:
                raise KeyError(word)
    except KeyError:
        raise ConfigError(f"bits is {text!r}: expected {EXPECTED_BITS}") from None
    return Grid(kind, bits, layout, group, 0.0, zero)
