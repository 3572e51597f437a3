"""Second moments of features and residuals, accumulated batch by batch.

Everything is summed in float64, where the device has it: in float32 the Gram matrix of features of condition 1e3
already loses two digits of the solution, of 1e4 all of them (docs/method.md, Solvers).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Moments", "accumulation_dtype"]


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """float64, but float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Moments:
    """F'F and, for each of several targets j, F'R_j and ‖R_j‖² over the rows added so far.

    Attributes:
        gram: [features, features]
        cross: [targets, features, outputs]
        square: [targets] summed squares of the residuals
        rows: how many rows were added
    """

    def __init__(self, features: int, outputs: int, targets: int, device: torch.device) -> None:
        dtype = accumulation_dtype(device)
        self.gram = torch.zeros(features, features, dtype=dtype, device=device)
        self.cross = torch.zeros(targets, features, outputs, dtype=dtype, device=device)
        self.square = torch.zeros(targets, dtype=dtype, device=device)
        self.rows = 0

    def add(self, features: Tensor, residuals: Iterable[Tensor]) -> None:
        """Add rows: features [rows, features] and, per target, residuals [rows, outputs]."""
        f = features.to(self.gram.dtype)
        self.gram.addmm_(f.T, f)
        for index, residual in enumerate(residuals):
            r = residual.to(self.gram.dtype)
            self.cross[index].addmm_(f.T, r)
            self.square[index] += (r * r).sum()
        self.rows += f.shape[0]
