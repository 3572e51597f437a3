"""Ridge regression in closed form, for any number of targets of the same features.

Objective, for a change ΔW of trained weights:

    minimise over ΔW   ‖F ΔW - R‖² + λ ‖ΔW‖²,     λ = penalty · trace(F'F) / features

that is (F'F + λI) ΔW = F'R, by a Cholesky factor for each penalty that is tried: one serves all targets, in a sixteenth
of an eigendecomposition's time, on a GPU a sixtieth. Which penalty is best is asked of a few random combinations of the
outputs where there are many: on the mean the trace of a matrix is that of its sketch (Hutchinson, "A stochastic
estimator of the trace of the influence matrix", 1989).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.moments import Moments

__all__ = ["PENALTIES", "Conditioning", "Ridge", "Solution"]

PENALTIES = tuple(10.0**power for power in range(1, -9, -1))
"""The path of penalties, relative to the mean eigenvalue of the Gram matrix, the largest first."""
COARSE = 2
"""One of how many of them is tried at first; then those beside the best."""
MANY, COMBINED = 128, 64
"""Outputs beyond which so many combinations of them are asked which penalty is best."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """How well the rows determine a solution.

    Attributes:
        unknowns: of each output: the features.
        rank: of the Gram matrix: its eigenvalues above max · max(features, sqrt(rows)) · eps, those that float64 can
            tell from zero after a sum over that many rows.
        condition: largest over least eigenvalue, of these.
    """

    unknowns: int
    rank: int
    condition: float


@dataclass(frozen=True, slots=True)
class Solution:
    """A ridge solution.

    Attributes:
        value: ΔW, [features, outputs], float64.
        penalty: relative to the mean eigenvalue.
        error: ‖F ΔW - R‖² on the split that it was chosen on.
    """

    value: Tensor
    penalty: float
    error: float


class Ridge:
    """Regressions on features with this Gram matrix F'F, [features, features].

    Attributes:
        mean: the mean eigenvalue.

    Args:
        gram: F'F.
        rows: of F. Their sum's rounding grows as the square root of their number: it decides what counts as zero.

    Raises:
        NonFiniteResult: if the matrix holds NaN or Inf, which a factorisation may pass over in silence.
    """

    def __init__(self, gram: Tensor, rows: int = 0) -> None:
        if not bool(torch.isfinite(gram).all()):
            raise NonFiniteResult("the Gram matrix of a block's features holds NaN or Inf")
        self._gram, self._rows = gram, rows
        self.mean = gram.diagonal().mean()

    @cached_property
    def conditioning(self) -> Conditioning:
        """By all eigenvalues."""
        values = torch.linalg.eigvalsh(self._gram).clamp_min(0)
        least = values[-1] * max(len(values), math.sqrt(self._rows)) * torch.finfo(values.dtype).eps
        rank = int((values > least).sum())
        condition = float(values[-1] / values[len(values) - rank]) if rank else 1.0
        return Conditioning(len(values), rank, condition)

    def factor(self, penalty: float) -> Tensor | None:
        """The Cholesky factor of F'F + λI, lower; None where rounding swallows so small a penalty."""
        if penalty < len(self._gram) * torch.finfo(self._gram.dtype).eps:
            return None
        damped = self._gram.clone()
        damped.diagonal().add_(penalty * self.mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        return None if bool(failed) else factor

    def best(self, cross: Tensor, select: Moments) -> list[Solution | None]:
        """Each target's solution of least squared error on another split; None where ΔW = 0 is best.

        Args:
            cross: F'R by target, [targets, features, outputs].
            select: the moments of that split, with the same targets.
        """
        found: list[Solution | None] = [None] * len(cross)
        if not self.mean > 0:
            return found
        for penalty, targets in self._chosen(cross, select).items():
            if (factor := self.factor(penalty)) is None:
                continue
            for target in targets:
                value = torch.cholesky_solve(cross[target], factor)
                error = select.error(value, target)
                if error < float(select.square[target]):
                    found[target] = Solution(value, penalty, error)
        return found

    def _chosen(self, cross: Tensor, select: Moments) -> dict[float, list[int]]:
        """The targets by the penalty that is best for them, as far as a sketch of their outputs tells."""
        given, theirs = _sketched(cross), _sketched(select.cross)
        shape = given.shape[1], len(cross), -1
        columns, wanted = given.transpose(0, 1).flatten(1), theirs.transpose(0, 1)

        def errors(place: int) -> list[float]:
            """By target, of one of the penalties, less that of no change."""
            if (factor := self.factor(PENALTIES[place])) is None:
                return len(cross) * [math.inf]
            value = torch.cholesky_solve(columns, factor)
            squares = (value * (select.gram @ value)).view(shape) - 2 * value.view(shape) * wanted
            return squares.sum((0, 2)).cpu().tolist()

        known = {place: errors(place) for place in range(0, len(PENALTIES), COARSE)}
        beside = {place + side for place in _least(known) for side in (-1, 1)}
        known |= {place: errors(place) for place in sorted(beside) if 0 <= place < len(PENALTIES)}
        found: dict[float, list[int]] = defaultdict(list)
        for target, place in enumerate(_least(known)):
            found[PENALTIES[place]].append(target)
        return found


def _least(errors: Mapping[int, Sequence[float]]) -> list[int]:
    """By target, which of some penalties has the least error."""
    targets = len(next(iter(errors.values())))
    return [min(errors, key=lambda place: errors[place][target]) for target in range(targets)]


def _sketched(cross: Tensor) -> Tensor:
    """[targets, features, outputs or fewer] the outputs, or random combinations that keep their squares on the mean."""
    outputs = cross.shape[2]
    if outputs <= MANY:
        return cross
    # Drawn on the CPU by a generator of its own: the same on every device, and no one else's draws are disturbed.
    draw = torch.randint(0, 2, (outputs, COMBINED), generator=torch.Generator().manual_seed(0))
    return cross @ ((2 * draw - 1) / math.sqrt(COMBINED)).to(cross)
