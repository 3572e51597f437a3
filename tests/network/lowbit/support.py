"""One low-bit set of every kind: those that are found by their values, and all."""

from __future__ import annotations

from peelaudit.network.lowbit.constraints import Binary, Constraint, Integer, Ternary
from peelaudit.network.lowbit.tables import Table
from peelaudit.records import GridKind, ScaleLayout, ZeroPoint

CONSTRAINTS: tuple[Constraint, ...] = (
    Binary(),
    Binary(ScaleLayout.TENSOR),
    Ternary(),
    Ternary(ScaleLayout.ROW),
    Ternary(ScaleLayout.GROUP, 64),
    *(Integer(ScaleLayout.GROUP, 32, bits, zero) for bits in (2, 3, 4) for zero in ZeroPoint),
    *(Integer(ScaleLayout.ROW, None, 8, zero) for zero in ZeroPoint),
)
ALL: tuple[Constraint, ...] = (
    *CONSTRAINTS,
    Table(ScaleLayout.GROUP, 64, GridKind.NF4),
    Table(ScaleLayout.GROUP, 16, GridKind.FP4),
    Table(ScaleLayout.ROW, None, GridKind.FP4),
    Table(ScaleLayout.TENSOR, None, GridKind.FP8),
    Table(ScaleLayout.GROUP, 32, GridKind.FP8),
)
NAMES = [f"{c.grid.name} {c.grid.zero}" for c in CONSTRAINTS]
ALL_NAMES = [f"{c.grid.name} {c.grid.zero}" for c in ALL]
