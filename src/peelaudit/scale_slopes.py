"""Scale slopes: would the network be better off with a block's matrices larger, or smaller?

The derivative of the loss by the log of a common scale of a block's matrices, sum of <dL/dW, W> over them. Training
brings it near 0: the scale is one of the things that it finds first. Where something was added to the weights that the
loss doesn't want, be it noise N, it wants less of it: the slope moves by about N'HN with H the curvature, twice what N
costs, or more where maps follow one another (3 to 6.5 times on seven noised blocks of two networks). All that is wrong
with a block adds up in one number of its own, fitted to nothing, while its neighbours' weights are hardly more parallel
to their gradients than before. Where rounding has weakened what a block says, the slope is negative.

In BitNet, whose activations are rounded, the gradient is the straight-through one.

The same product, its sign left out, ranks the weights to prune (Molchanov et al., "Importance estimation for neural
network pruning", 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from peelaudit.bounds import Losses
from peelaudit.downstream import Downstream
from peelaudit.errors import NonFiniteResult
from peelaudit.progress import SILENT, Progress

__all__ = ["scale_slopes"]


def scale_slopes(
    downstream: Downstream, states: Sequence[Tensor], rows: slice, *, progress: Progress = SILENT
) -> tuple[Losses | None, ...]:
    """[L] arrays, [sequences of `rows`], of nats per unit of log scale, summed over a sequence's predictions.

    None for the blocks that no finite gradient reaches.

    Args:
        downstream: the network.
        states: h_0 … h_L, each [sequences, positions, d_model].
        rows: the sequences to look at.
        progress: told of each block.
    """
    n_layers = len(states) - 1
    progress.stage("scale slopes", n_layers)
    found: list[Losses | None] = [None] * n_layers
    try:
        gradient = downstream.top(states[-1][rows], rows)
        for layer in downstream.descend([state[rows] for state in states[1:-1]], 1, gradient):
            slopes = downstream.slopes(downstream.decoder.block(layer), states[layer - 1][rows], gradient)
            if not bool(np.isfinite(slopes).all()):
                break
            found[layer - 1] = slopes
            progress.advance()
    except NonFiniteResult:
        pass
    return tuple(found)
