"""One low-bit set of every kind, those that are found by their values, and all; and matrices to round."""

from __future__ import annotations

import torch
from torch import Tensor

from peelaudit.network.lowbit.constraints import Binary, Constraint, Integer, Ternary
from peelaudit.network.lowbit.rounding import Part, fit_to_grid
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


def problem(inputs: int, outputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A target [inputs, outputs] and the Gram matrix of correlated features."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(8 * inputs, max(1, inputs // 4), generator=generator, dtype=torch.float64)
    features = mixed @ torch.randn(mixed.shape[1], inputs, generator=generator, dtype=torch.float64)
    features += 0.3 * torch.randn(features.shape, generator=generator, dtype=torch.float64)
    target = 0.02 * torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    return target, features.T @ features


def objective(weight: Tensor, target: Tensor, gram: Tensor) -> float:
    error = weight - target
    return float(((gram @ error) * error).sum())


def rounded(constraint: Constraint, target: Tensor, gram: Tensor, start: Tensor | None = None) -> Tensor:
    start = constraint.quantise(target.T).T if start is None else start
    parts = [Part(slice(0, len(target)), constraint)]
    return fit_to_grid(target[None], start, gram, parts, torch.float32)[0]
