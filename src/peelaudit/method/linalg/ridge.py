"""Ridge regression in closed form: factorise once, then solve for every target and every penalty.

Objective, for a change ΔW of trained weights:

    minimise over ΔW   ‖F ΔW - R‖² + λ ‖ΔW‖²,     λ = penalty · trace(F'F) / features

With F'F = V diag(s) V', the solution is ΔW = V diag(1 / (s + λ)) V'F'R, so that one eigendecomposition serves all
right-hand sides and all penalties. Directions with s ≤ max(s) · max(features, sqrt(rows)) · eps, those that float64
can't tell from zero after a sum over that many rows, get no change: for penalty 0 this is the least-squares solution
of least norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.moments import Moments

__all__ = ["PENALTIES", "Conditioning", "Factorisation", "Solution", "best_penalty", "factorise"]

PENALTIES = tuple(10.0**power for power in range(-8, 2))
"""The path of penalties, relative to the mean eigenvalue of the Gram matrix."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """How well the rows determine a solution.

    Attributes:
        unknowns: of each output: the features.
        rank: of the Gram matrix: directions beyond it get no change.
        condition: largest over least eigenvalue, of the directions that were kept.
    """

    unknowns: int
    rank: int
    condition: float


@dataclass(frozen=True, slots=True)
class Solution:
    """A ridge solution: `value` is ΔW, [features, outputs], float64."""

    value: Tensor
    penalty: float
    conditioning: Conditioning


@dataclass(frozen=True, slots=True)
class Factorisation:
    """The eigendecomposition of a Gram matrix F'F: `values` ascending [features], `vectors` in columns."""

    values: Tensor
    vectors: Tensor
    conditioning: Conditioning

    def rotate(self, cross: Tensor) -> Tensor:
        """V'F'R of F'R, [features, outputs]: what `solve` takes, computed once for a path of penalties."""
        return self.vectors.T @ cross

    def shrink(self, penalty: float) -> Tensor:
        """1 / (s + λ) for each direction, [features]; 0 for those that are not kept."""
        kept = torch.arange(len(self.values), device=self.values.device) >= len(self.values) - self.conditioning.rank
        ridge = penalty * self.values.mean()
        return torch.where(kept, 1 / (self.values + ridge).clamp_min(torch.finfo(self.values.dtype).tiny), 0.0)

    def solve(self, cross: Tensor, penalty: float) -> Solution:
        """ΔW for F'R, [features, outputs], and a penalty relative to the mean eigenvalue."""
        value = self.vectors @ (self.shrink(penalty)[:, None] * self.rotate(cross))
        return Solution(value, penalty, self.conditioning)


def factorise(gram: Tensor, rows: int = 0) -> Factorisation:
    """Factorise F'F, [features, features], once for all right-hand sides and penalties.

    Args:
        gram: F'F.
        rows: of F. Their sum's rounding grows as the square root of their number: it decides what counts as zero.

    Raises:
        NonFiniteResult: if the matrix holds NaN or Inf, which a factorisation may pass over in silence.
    """
    if not bool(torch.isfinite(gram).all()):
        raise NonFiniteResult("the Gram matrix of a block's features holds NaN or Inf")
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    least = values[-1] * max(len(values), math.sqrt(rows)) * torch.finfo(values.dtype).eps
    rank = int((values > least).sum())
    condition = float(values[-1] / values[len(values) - rank]) if rank else 1.0
    return Factorisation(values, vectors, Conditioning(len(values), rank, condition))


def best_penalty(
    factorisation: Factorisation,
    cross: Tensor,
    select: Moments,
    target: int,
    penalties: Sequence[float] = PENALTIES,
    rotated_gram: Tensor | None = None,
) -> tuple[float | None, float]:
    """The penalty whose solution has the least squared error on *select*, and that error; None where ΔW = 0 is best.

    The error is computed from moments alone: ‖R‖² - 2 tr(ΔW'F'R) + tr(ΔW' F'F ΔW), in the eigenbasis.

    Args:
        factorisation: of the fit tokens' Gram matrix.
        cross: F'R of the fit tokens, [features, outputs].
        select: the moments of the select tokens.
        target: which of their targets.
        penalties: the path to try.
        rotated_gram: `rotate_gram(factorisation, select)`, if it is at hand.
    """
    gram = rotate_gram(factorisation, select) if rotated_gram is None else rotated_gram
    # In the eigenbasis ΔW is diag(shrink) V'F'R: shrink alone depends on the penalty, and one product serves them all.
    rotated = factorisation.rotate(cross)
    linear = (rotated * factorisation.rotate(select.cross[target])).sum(dim=1)
    quadratic = gram * (rotated @ rotated.T)
    square = float(select.square[target])
    best: tuple[float | None, float] = (None, square)
    for penalty in penalties:
        shrink = factorisation.shrink(penalty)
        error = square - 2 * float(shrink @ linear) + float(shrink @ quadratic @ shrink)
        if error < best[1]:
            best = (penalty, error)
    return best


def rotate_gram(factorisation: Factorisation, moments: Moments) -> Tensor:
    """V' G V of another split's Gram matrix G, [features, features]."""
    rotated: Tensor = factorisation.vectors.T @ moments.gram @ factorisation.vectors
    return rotated
