"""The largest singular values of a matrix, and the directions that they belong to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult

__all__ = ["Leading", "leading"]


class Leading(NamedTuple):
    """The part u diag(s) v' of a matrix that its `s` largest singular values make up.

    Attributes:
        u: [rows, count], orthonormal.
        s: [count], descending.
        v: [columns, count], orthonormal.
    """

    u: Tensor
    s: Tensor
    v: Tensor


@torch.no_grad()
def leading(matrix: Tensor, count: int, *, steps: int = 4) -> Leading:
    """The `count` largest, by subspace iteration (Halko et al., arXiv 0909.4061); the same each time.

    Values that stand apart come out as a full decomposition has them. Among values that are close together the
    subspace is one of many that hold as much.

    Args:
        matrix: [rows, columns], of floats; half precision is computed in float32.
        count: at most min(rows, columns).
        steps: of iteration.

    Raises:
        NonFiniteResult: the matrix holds NaN or Inf.
    """
    matrix = matrix.detach() if matrix.dtype == torch.float64 else matrix.detach().float()
    if not bool(torch.isfinite(matrix).all()):
        raise NonFiniteResult("a matrix holds NaN or Inf, and has no singular values")
    size = min(count + max(8, count // 4), *matrix.shape)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    # Drawn on the CPU in float32, by a generator of its own: the same on every device and in every dtype, and no one
    # else's draws are disturbed.
    draw = torch.randn(tall.shape[1], size, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    basis = torch.linalg.qr(tall @ draw.to(matrix)).Q
    for _ in range(steps):
        basis = torch.linalg.qr(tall @ torch.linalg.qr(tall.T @ basis).Q).Q
    u, s, vh = torch.linalg.svd(basis.T @ tall, full_matrices=False)
    u, v = (basis @ u, vh.T) if tall is matrix else (vh.T, basis @ u)
    return Leading(u[:, :count], s[:count], v[:, :count])
