"""Slopes: would the network be better off with a block's matrices larger, or smaller, and with what is random in them?

The derivative of the loss by the log of a common scale of a block's matrices, sum of <dL/dW, W> over them, is its scale
slope. Training brings it near 0: the scale is one of the things that it finds first. Where something was added to the
weights that the loss doesn't want, be it noise N, it wants less of it: the slope moves by about N'HN with H the
curvature, twice what N costs, or more where maps follow one another (3 to 6.5 times on seven noised blocks of two
networks). All that is wrong with a block adds up in one number of its own, fitted to nothing, while its neighbours'
weights are hardly more parallel to their gradients than before. Where rounding has weakened what a block says, the
slope is negative.

The bulk slope is the same derivative with the leading directions left as they are: of each matrix, those of the largest
sixteenth of its singular values. They hold most of what was learnt, and with it most of what a text of another kind
would scale up or down; noise is spread over all of them alike, so that nearly all of it is in the bulk. Of 18 blocks of
SmolLM2 that were noised, rounded to one bit or had a head shuffled, 15 had the largest bulk slope of 30, and 10 the
scale slope farthest from 0.

In BitNet, whose activations are rounded, the gradient is the straight-through one.

The same product, its sign left out, ranks the weights to prune (Molchanov et al., "Importance estimation for neural
network pruning", 2019); that noise shows in the bulk of the spectrum is Martin and Mahoney's (arXiv 1810.01075).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.refinement.downstream import BlockSlopes, Downstream
from peelaudit.progress import SILENT, Progress

__all__ = ["block_slopes"]


def block_slopes(
    downstream: Downstream, states: Sequence[Tensor], rows: slice, *, progress: Progress = SILENT
) -> tuple[BlockSlopes | None, ...]:
    """[L] each block's; None for those that no finite gradient reaches.

    Args:
        downstream: the network.
        states: h_0 … h_L, each [sequences, positions, d_model].
        rows: the sequences to look at.
        progress: told of each block.
    """
    n_layers = len(states) - 1
    progress.stage("slopes", n_layers)
    found: list[BlockSlopes | None] = [None] * n_layers
    try:
        gradient = downstream.top(states[-1][rows], rows)
        for layer in range(n_layers, 0, -1):
            slopes = downstream.slopes(downstream.decoder.block(layer), states[layer - 1][rows], gradient)
            if not all(bool(np.isfinite(one).all()) for one in slopes):
                break
            found[layer - 1] = slopes
            progress.advance()
    except NonFiniteResult:
        pass
    return tuple(found)
