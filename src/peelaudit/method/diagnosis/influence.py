"""Block influence: how far a block turns the residual stream (Men et al., arXiv 2403.03853)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

__all__ = ["influence"]


def influence(before: Tensor, after: Tensor) -> NDArray[np.float64]:
    """[sequences] 1 - the cosine of a block's input and output, mean over each sequence's positions, in float64.

    0 where the block turns nothing, and at most 2.

    Args:
        before: h_{k-1}, [sequences, positions, d_model].
        after: h_k.
    """
    pairs = ((z.double(), h.to(z.device).double()) for z, h in zip(before, after, strict=True))
    return np.array([float(1 - cosine_similarity(z, h, dim=-1).mean()) for z, h in pairs])
