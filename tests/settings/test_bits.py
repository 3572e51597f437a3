"""How a low-bit set is written."""

from __future__ import annotations

import pytest

from peelaudit.errors import ConfigError
from peelaudit.records import GridKind, ScaleLayout, ZeroPoint
from peelaudit.settings.bits import parse_bits


@pytest.mark.parametrize(
    ("text", "kind", "layout", "group", "zero"),
    [
        ("binary", GridKind.BINARY, ScaleLayout.ROW, None, ZeroPoint.SYMMETRIC),
        ("ternary", GridKind.TERNARY, ScaleLayout.TENSOR, None, ZeroPoint.SYMMETRIC),
        ("ternary:row", GridKind.TERNARY, ScaleLayout.ROW, None, ZeroPoint.SYMMETRIC),
        ("int4:g32:free", GridKind.INTEGER, ScaleLayout.GROUP, 32, ZeroPoint.FREE),
        ("int8:zero", GridKind.INTEGER, ScaleLayout.ROW, None, ZeroPoint.INTEGER),
    ],
)
def test_sets(text: str, kind: GridKind, layout: ScaleLayout, group: int | None, zero: ZeroPoint) -> None:
    grid = parse_bits(text)
    assert not isinstance(grid, str)
    assert (grid.kind, grid.layout, grid.group, grid.zero) == (kind, layout, group, zero)


@pytest.mark.parametrize("text", ["", "int5", "int4:g0", "ternary:free", "binary:", "float:row", "int4:g32:g", "INT4"])
def test_anything_else_is_one_sentence_that_says_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"bits is .*expected auto \| float"):
        parse_bits(text)
