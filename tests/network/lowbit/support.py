"""One low-bit set of every kind."""

from __future__ import annotations

from peelaudit.network.lowbit.constraints import Binary, Constraint, Integer, Ternary
from peelaudit.records import ScaleLayout, ZeroPoint

CONSTRAINTS: tuple[Constraint, ...] = (
    Binary(),
    Binary(ScaleLayout.TENSOR),
    Ternary(),
    Ternary(ScaleLayout.ROW),
    Ternary(ScaleLayout.GROUP, 64),
    *(Integer(ScaleLayout.GROUP, 32, bits, zero) for bits in (2, 3, 4) for zero in ZeroPoint),
    *(Integer(ScaleLayout.ROW, None, 8, zero) for zero in ZeroPoint),
)
NAMES = [f"{c.grid.name} {c.grid.zero}" for c in CONSTRAINTS]
