"""The low-bit sets that a matrix can be held to: binary, ternary, integers of b bits (floats of few: `tables`).

Every value is a scale times what its code stands for, the code a whole number from 0 to `levels` - 1. Of evenly spaced
sets that is code - zero, and `zero` is what tells them apart: 1/2 for binary (-s, s), 1 for ternary (-s, 0, s), 2^(b-1)
for symmetric integers, a whole number of each group where there is a zero point (GPTQ, AWQ), any number where a group
has a minimum of its own (GGUF's Q4_1).

A matrix is [..., outputs, inputs], as nn.Linear keeps it; leading dimensions are a batch. A scale is shared by the
whole matrix, by an output, or by a group of neighbouring inputs of an output. Scales are not themselves quantised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from peelaudit.records import Grid, GridKind, ScaleLayout, ZeroPoint

__all__ = [
    "SHRINKAGES",
    "Binary",
    "Constraint",
    "Held",
    "Integer",
    "Scales",
    "Ternary",
    "away_from_zero",
    "best_scales",
]

SHRINKAGES = tuple(1 - step / 20 for step in range(14))
"""Shares of a group's range that its values may span: the outermost weights are clipped where that is better."""
_MOST_APART = 7
"""Steps that neighbouring values of a group are apart at most, where scales are read from the values."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Of one matrix: `scale` and `zero`, each [..., outputs or 1, groups]."""

    scale: Tensor
    zero: Tensor

    def spread(self, inputs: int) -> Scales:
        """For each weight: [..., outputs or 1, inputs]."""
        length = inputs // self.scale.shape[-1]
        return Scales(self.scale.repeat_interleave(length, dim=-1), self.zero.repeat_interleave(length, dim=-1))

    @property
    def by_group(self) -> tuple[Tensor, Tensor]:
        """Both, [..., outputs or 1, groups, 1]: for weights [..., outputs, groups, weights in a group]."""
        return self.scale.unsqueeze(-1), self.zero.unsqueeze(-1)

    def of(self, group: int) -> Scales:
        """A view of one group's, [..., outputs or 1, 1]."""
        return Scales(self.scale[..., group : group + 1], self.zero[..., group : group + 1])


@dataclass(frozen=True, slots=True)
class Constraint(ABC):
    """A low-bit set. `group` is the length of a group in inputs, where `layout` is by group."""

    layout: ScaleLayout
    group: int | None = None

    @property
    @abstractmethod
    def levels(self) -> int:
        """How many values a weight can have, given its scale."""

    @property
    def grid(self) -> Grid:
        """What the set is called in a report; the share of zeros is left at 0."""
        return self._grid()

    @property
    def free_zero(self) -> bool:
        """Whether a group's zero is any number, fitted with its scale."""
        return self.grid.zero is ZeroPoint.FREE

    def scales(self, weight: Tensor) -> Scales:
        """Scales for float weights [..., outputs, inputs]."""
        return self._scales(self.groups(weight))

    def read(self, weight: Tensor) -> Scales:
        """The scales of weights that are on the grid already, [..., outputs, inputs]."""
        return self._read(self.groups(weight))

    @abstractmethod
    def nearest(self, position: Tensor, zero: Tensor) -> Tensor:
        """The codes nearest to weights that are so many scales, as floats."""

    @abstractmethod
    def units(self, codes: Tensor, zero: Tensor) -> Tensor:
        """How many scales the codes stand for; a new tensor."""

    @abstractmethod
    def _grid(self) -> Grid: ...

    @abstractmethod
    def _scales(self, groups: Tensor) -> Scales: ...

    @abstractmethod
    def _read(self, groups: Tensor) -> Scales: ...

    def codes(self, weight: Tensor, scales: Scales) -> Tensor:
        """The nearest codes, [..., outputs, inputs], as floats."""
        scale, zero = scales.by_group
        groups = weight.reshape(*weight.shape[:-1], scale.shape[-2], -1)
        return self.nearest(groups / away_from_zero(scale), zero).flatten(-2)

    def values(self, codes: Tensor, scales: Scales) -> Tensor:
        """What the codes stand for, [..., outputs, inputs]."""
        scale, zero = scales.by_group
        return (scale * self.units(codes.reshape(*codes.shape[:-1], scale.shape[-2], -1), zero)).flatten(-2)

    def quantise(self, weight: Tensor) -> Tensor:
        """Float weights rounded to the set with scales of their own, [..., outputs, inputs]."""
        scales = self.scales(weight)
        return self.values(self.codes(weight, scales), scales)

    def holds(self, weight: Tensor) -> bool:
        """Whether weights [..., outputs, inputs] are of the set already, within rounding."""
        scales = self.read(weight)
        slack = 4 * max(torch.finfo(weight.dtype).eps, 1e-7) * weight.abs().max()
        return bool(((self.values(self.codes(weight, scales), scales) - weight).abs() <= slack).all())

    def straight_through(self, weight: Tensor, scales: Scales) -> Tensor:
        """The rounded weights, with the gradient of the identity for weights within the range, and none beyond.

        The scales' gradient is exact for the given codes (the straight-through estimator of Bengio et al.,
        arXiv 1308.3432; with learned scales as in LSQ, arXiv 1902.08153).
        """
        spread = scales.spread(weight.shape[-1])
        zero = spread.zero
        ends = [self.units(torch.full_like(zero, code), zero) for code in (0, self.levels - 1)]
        position = (weight / away_from_zero(spread.scale.detach())).clamp(*ends)
        nearest = self.units(self.nearest(position.detach(), zero), zero)
        return spread.scale * (position + (nearest - position).detach())

    def groups(self, weight: Tensor) -> Tensor:
        """The weights by scale: [..., outputs or 1, groups, weights in a group]."""
        *batch, outputs, inputs = weight.shape
        if self.layout is ScaleLayout.TENSOR:
            return weight.reshape(*batch, 1, 1, outputs * inputs)
        return weight.reshape(*batch, outputs, -1, self.group or inputs)


@dataclass(frozen=True, slots=True)
class Even(Constraint):
    """Evenly spaced values."""

    def nearest(self, position: Tensor, zero: Tensor) -> Tensor:
        """As `Constraint.nearest`."""
        return (position + zero).round_().clamp_(0, self.levels - 1)

    def units(self, codes: Tensor, zero: Tensor) -> Tensor:
        """As `Constraint.units`."""
        return codes - zero


@dataclass(frozen=True, slots=True)
class Binary(Even):
    """-s and s. For float weights s is their mean size (XNOR-Net, arXiv 1603.05279), by output by default."""

    layout: ScaleLayout = ScaleLayout.ROW

    @property
    def levels(self) -> int:
        """As `Constraint.levels`."""
        return 2

    def _grid(self) -> Grid:
        return Grid(GridKind.BINARY, 1.0, self.layout, self.group, 0.0)

    def _scales(self, groups: Tensor) -> Scales:
        return _centred(2 * groups.abs().mean(dim=-1), 0.5)

    def _read(self, groups: Tensor) -> Scales:
        return _centred(2 * groups.abs().amax(dim=-1), 0.5)


@dataclass(frozen=True, slots=True)
class Ternary(Even):
    """-s, 0 and s. For float weights s is their mean size, over the matrix unless told otherwise (BitNet b1.58,
    arXiv 2402.17764).
    """

    layout: ScaleLayout = ScaleLayout.TENSOR

    @property
    def levels(self) -> int:
        """As `Constraint.levels`."""
        return 3

    def _grid(self) -> Grid:
        return Grid(GridKind.TERNARY, 1.584962500721156, self.layout, self.group, 0.0)

    def _scales(self, groups: Tensor) -> Scales:
        return _centred(groups.abs().mean(dim=-1), 1.0)

    def _read(self, groups: Tensor) -> Scales:
        return _centred(groups.abs().amax(dim=-1), 1.0)


@dataclass(frozen=True, slots=True)
class Integer(Even):
    """2^`bits` evenly spaced values: for float weights over the range that they span, or its share that rounds best."""

    layout: ScaleLayout = ScaleLayout.ROW
    bits: int = 4
    zero: ZeroPoint = ZeroPoint.SYMMETRIC

    @property
    def levels(self) -> int:
        """As `Constraint.levels`."""
        return 1 << self.bits

    def _grid(self) -> Grid:
        return Grid(GridKind.INTEGER, float(self.bits), self.layout, self.group, 0.0, self.zero)

    def _scales(self, groups: Tensor) -> Scales:
        return best_scales(self, groups, (self._spanning(groups, share) for share in SHRINKAGES))

    def _spanning(self, groups: Tensor, share: float) -> Scales:
        if self.zero is ZeroPoint.SYMMETRIC:
            # The lowest code has no partner above: it goes to the side of the largest weight, by the scale's sign.
            low, high = groups.amin(dim=-1), groups.amax(dim=-1)
            largest = torch.where(high > -low, high, low)
            return _centred(-share * largest / (self.levels / 2), self.levels / 2)
        low, high = share * groups.amin(dim=-1), share * groups.amax(dim=-1)
        if self.zero is ZeroPoint.INTEGER:
            low, high = low.clamp_max(0), high.clamp_min(0)
        scale = (high - low) / (self.levels - 1)
        zero = -low / away_from_zero(scale)
        return Scales(scale, zero.round() if self.zero is ZeroPoint.INTEGER else zero)

    def _read(self, groups: Tensor) -> Scales:
        values = groups.sort(dim=-1).values
        steps = values.diff(dim=-1)
        new = steps > 1e-6 * values.abs().amax(dim=-1, keepdim=True)
        spacing = torch.where(new, steps, torch.inf).amin(dim=-1)
        largest = values.abs().amax(dim=-1)
        spacing = torch.where(spacing.isfinite(), spacing, largest)
        lowest, span = values[..., 0], values[..., -1] - values[..., 0]
        spacing = _divided(spacing, values - lowest.unsqueeze(-1) if self.zero is ZeroPoint.FREE else values)
        # One spacing is known to a few digits only, the sum of all of them to more.
        steps_up = (span / away_from_zero(spacing)).round()
        scale = torch.where(steps_up > 0, span / steps_up.clamp_min(1), spacing)
        if self.zero is ZeroPoint.FREE:
            return Scales(scale, -lowest / away_from_zero(scale))
        if self.zero is ZeroPoint.INTEGER:
            return Scales(scale, (-lowest / away_from_zero(scale)).round().clamp(0, self.levels - 1))
        mirrored = values[..., -1] > (self.levels / 2 - 0.5) * scale
        return _centred(torch.where(mirrored, -scale, scale), self.levels / 2)


@dataclass(frozen=True, slots=True)
class Held:
    """A parameter of a block that a constraint holds.

    Attributes:
        constraint: the set.
        transposed: whether it is kept as [inputs, outputs], as transformers' Conv1D has it.
        parts: how many matrices of that set it is, one's outputs behind the other's: an expert's first two.
    """

    constraint: Constraint
    transposed: bool
    parts: int = 1

    def matrix(self, weight: Tensor) -> Tensor:
        """[outputs, inputs] of the parameter, of several parts [parts, outputs, inputs]."""
        matrix = weight.mT if self.transposed else weight
        return matrix if self.parts == 1 else matrix.reshape(self.parts, -1, matrix.shape[-1])

    def parameter(self, matrix: Tensor) -> Tensor:
        """The parameter of what `matrix` returns."""
        whole = matrix if self.parts == 1 else matrix.flatten(-3, -2)
        return (whole.mT if self.transposed else whole).contiguous()

    def scales(self, weight: Tensor) -> Scales:
        """Those of a parameter that is of the set."""
        return self.constraint.read(self.matrix(weight.detach()))

    def fits(self, weight: Tensor, scales: Scales) -> bool:
        """Whether the parameter is of the set with these scales, within rounding."""
        slack = 2 * torch.finfo(weight.dtype).eps * weight.abs().max()
        return bool(((self.rounded(weight, scales) - weight).abs() <= slack).all())

    def rounded(self, weight: Tensor, scales: Scales) -> Tensor:
        """The parameter rounded to the set with these scales, or with its own where all of these are 0."""
        matrix = self.matrix(weight)
        if not bool(scales.scale.any()):
            scales = self.constraint.scales(matrix)
        return self.parameter(self.constraint.values(self.constraint.codes(matrix, scales), scales))

    def quantise(self, weight: Tensor) -> Tensor:
        """The parameter rounded to the set with scales of its own, unless it is of the set already."""
        matrix = self.matrix(weight)
        return weight if self.constraint.holds(matrix) else self.parameter(self.constraint.quantise(matrix))


def best_scales(constraint: Constraint, groups: Tensor, tried: Iterable[Scales], *, gain: float = 1.0) -> Scales:
    """The scales of several that round each of the groups, [..., groups, weights], with the least squared error.

    Of two, the later ones must have less than `gain` times the error of those before.
    """
    first, *others = tried
    best, least = first, _error(constraint, groups, first)
    for scales in others:
        error = _error(constraint, groups, scales)
        better = error < gain * least
        least = torch.where(better, error, least)
        best = Scales(torch.where(better, scales.scale, best.scale), torch.where(better, scales.zero, best.zero))
    return best


def _error(constraint: Constraint, groups: Tensor, scales: Scales) -> Tensor:
    scale, zero = scales.scale.unsqueeze(-1), scales.zero.unsqueeze(-1)
    codes = constraint.nearest(groups / away_from_zero(scale), zero)
    return (scale * constraint.units(codes, zero) - groups).square().sum(dim=-1)


def away_from_zero(scale: Tensor) -> Tensor:
    """The scale, but where it is zero (a group of zeros) one that can be divided by."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _divided(spacing: Tensor, values: Tensor) -> Tensor:
    """The spacing of each group, or the largest whole part of it of which all of its values are multiples.

    Codes that aren't neighbours seem to be further apart than they can be.
    """
    result = spacing
    for divisor in range(_MOST_APART, 0, -1):
        multiples = values / away_from_zero(spacing / divisor).unsqueeze(-1)
        fits = ((multiples - multiples.round()).abs() < 0.02).all(dim=-1)
        result = torch.where(fits, spacing / divisor, result)
    return result


def _centred(scale: Tensor, zero: float) -> Scales:
    return Scales(scale, torch.full_like(scale, zero))
