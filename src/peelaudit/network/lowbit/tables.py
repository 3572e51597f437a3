"""Low-bit sets whose values aren't evenly spaced: scale times an entry of a table, and the set of any grid.

nf4   16 quantiles of a normal distribution, from -1 to 1 (QLoRA, arXiv 2305.14314)
fp4   15 floats of 4 bits, e2m1, from -6 to 6 (OCP Microscaling Formats, v1.0)
fp8   253 floats of 8 bits, e4m3, from -448 to 448 (arXiv 2209.05433)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from peelaudit.network.lowbit.constraints import (
    SHRINKAGES,
    Binary,
    Constraint,
    Integer,
    Scales,
    Ternary,
    best_scales,
)
from peelaudit.records import Grid, GridKind, ScaleLayout

__all__ = ["TABLE_BITS", "Table", "constraint_of"]

TABLE_BITS: Mapping[GridKind, int] = {GridKind.NF4: 4, GridKind.FP4: 4, GridKind.FP8: 8}
"""The bits of a code."""

_E2M1 = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_NF4_BELOW = (1.0, 0.6961928, 0.52507305, 0.3949175, 0.28444138, 0.18477343, 0.09105004)
_NF4_ABOVE = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)
_MOST_READ = 4096
"""Weights of a group that are looked at to tell which entry the largest is."""
_MUCH_BETTER = 0.25


@cache
def _values(kind: GridKind) -> tuple[float, ...]:
    """The table, in order."""
    if kind is GridKind.NF4:
        return (*(-size for size in _NF4_BELOW), 0.0, *_NF4_ABOVE)
    if kind is GridKind.FP4:
        sizes: tuple[float, ...] = _E2M1
    else:
        codes = torch.arange(1, 127, dtype=torch.uint8)
        sizes = tuple(codes.view(torch.float8_e4m3fn).float().tolist())
    return (*(-size for size in reversed(sizes)), 0.0, *sizes)


@cache
def _tensors(kind: GridKind, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The table, and the middle of each two neighbours."""
    exact = torch.tensor(_values(kind), dtype=torch.float64)
    return exact.to(dtype).to(device), ((exact[1:] + exact[:-1]) / 2).to(dtype).to(device)


@dataclass(frozen=True, slots=True)
class Table(Constraint):
    """A scale above 0 times an entry of the kind's table. `zero` of its scales says nothing."""

    layout: ScaleLayout = ScaleLayout.ROW
    kind: GridKind = GridKind.NF4

    @property
    def levels(self) -> int:
        """As `Constraint.levels`."""
        return len(_values(self.kind))

    def nearest(self, position: Tensor, zero: Tensor) -> Tensor:
        """As `Constraint.nearest`."""
        middles = _tensors(self.kind, position.dtype, position.device)[1]
        return torch.bucketize(position.contiguous(), middles).to(position.dtype)

    def units(self, codes: Tensor, zero: Tensor) -> Tensor:
        """As `Constraint.units`."""
        return _tensors(self.kind, codes.dtype, codes.device)[0][codes.long()]

    def _grid(self) -> Grid:
        return Grid(self.kind, float(TABLE_BITS[self.kind]), self.layout, self.group, 0.0)

    def _scales(self, groups: Tensor) -> Scales:
        largest = groups.abs().amax(dim=-1) / max(_values(self.kind))
        return best_scales(self, groups, (_plain(share * largest) for share in SHRINKAGES))

    def _read(self, groups: Tensor) -> Scales:
        """By the largest weight of each group, which is one of the table's entries: that which the others fit.

        Floats that leave the upper half of the range free are as good at half the scale: the largest is in it.
        """
        low, high = groups.amin(dim=-1), groups.amax(dim=-1)
        extreme = torch.where(high >= -low, high, low)
        least = max(_values(self.kind)) / 2 if self.kind is not GridKind.NF4 else 0.0
        entries = sorted((value for value in _values(self.kind) if abs(value) > least), key=abs, reverse=True)
        sample = groups[..., :: -(-groups.shape[-1] // _MOST_READ)]
        tried = (_plain((extreme / entry).clamp_min(0)) for entry in entries)
        return best_scales(self, sample, tried, gain=_MUCH_BETTER)


def _plain(scale: Tensor) -> Scales:
    return Scales(scale, torch.zeros_like(scale))


def constraint_of(grid: Grid) -> Constraint:
    """The set that a grid found in a checkpoint belongs to."""
    match grid.kind:
        case GridKind.BINARY:
            return Binary(grid.layout, grid.group)
        case GridKind.TERNARY:
            return Ternary(grid.layout, grid.group)
        case GridKind.INTEGER:
            return Integer(grid.layout, grid.group, int(grid.bits), grid.zero)
        case GridKind.NF4 | GridKind.FP4 | GridKind.FP8:
            return Table(grid.layout, grid.group, grid.kind)
