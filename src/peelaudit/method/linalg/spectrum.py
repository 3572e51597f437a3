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
    with torch.random.fork_rng([matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(matrix, q=size, niter=steps)
    return Leading(u[:, :count], s[:count], v[:, :count])
