"""Second moments of features and residuals, accumulated batch by batch.

Everything is summed in float64, where the device has it: in float32 the Gram matrix of features of condition 1e3
already loses two digits of the solution, of 1e4 all of them (docs/method.md, Solvers).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from peelaudit.method.linalg.precision import wide_product

__all__ = ["Gram", "Moments", "accumulation_dtype"]

_BLOCK = {"cpu": 256}
_LARGE_BLOCK = 2048
"""Columns whose products with the others are made at once: a GPU wants large products."""


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """float64, but float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Gram:
    """F'F over the rows added so far. It is symmetric: a strip of columns at a time, only what lies on its diagonal and
    to the right is computed, which of 1,536 features takes two thirds of the time.

    Args:
        features: how many.
        device: where the sum is.
    """

    def __init__(self, features: int, device: torch.device) -> None:
        self._sum = torch.zeros(features, features, dtype=accumulation_dtype(device), device=device)
        self._block = _BLOCK.get(device.type, _LARGE_BLOCK)
        self._mirrored = True

    @property
    def dtype(self) -> torch.dtype:
        """Of the sum."""
        return self._sum.dtype

    def add(self, rows: Tensor) -> None:
        """Add [rows, features]: of the sum's dtype the products are too, of another one float32 at least."""
        for first in range(0, rows.shape[1], self._block):
            span = slice(first, first + self._block)
            strip, right = self._sum[span, first:], rows[:, first:]
            if rows.dtype == self._sum.dtype:
                strip.addmm_(rows[:, span].T, right)
            else:
                strip += wide_product(rows[:, span].T, right)
        self._mirrored = False

    @property
    def whole(self) -> Tensor:
        """F'F, [features, features]."""
        if not self._mirrored:
            for first in range(0, len(self._sum), self._block):
                after = first + self._block
                self._sum[after:, first:after] = self._sum[first:after, after:].T
            self._mirrored = True
        return self._sum


class Moments:
    """F'F and, for each of several targets j, F'R_j and ‖R_j‖² over the rows added so far.

    Attributes:
        cross: [targets, features, outputs]
        square: [targets] summed squares of the residuals
        rows: how many rows were added
    """

    def __init__(self, features: int, outputs: int, targets: int, device: torch.device) -> None:
        dtype = accumulation_dtype(device)
        self._gram = Gram(features, device)
        self.cross = torch.zeros(targets, features, outputs, dtype=dtype, device=device)
        self.square = torch.zeros(targets, dtype=dtype, device=device)
        self.rows = 0

    @property
    def gram(self) -> Tensor:
        """F'F, [features, features]."""
        return self._gram.whole

    def error(self, change: Tensor, target: int) -> float:
        """‖F ΔW - R‖² = ‖R‖² - 2 tr(ΔW'F'R) + tr(ΔW' F'F ΔW) of a change [features, outputs] and one of the targets."""
        return float(self.square[target]) + float((change * (self.gram @ change - 2 * self.cross[target])).sum())

    def add(self, features: Tensor, residuals: Iterable[Tensor]) -> None:
        """Add rows: features [rows, features] and, per target, residuals [rows, outputs]."""
        f = features.to(self._gram.dtype)
        self._gram.add(f)
        for index, residual in enumerate(residuals):
            r = residual.to(f.dtype)
            self.cross[index].addmm_(f.T, r)
            self.square[index] += (r * r).sum()
        self.rows += f.shape[0]
