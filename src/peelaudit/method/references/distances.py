"""Squared distances of states, summed in float64."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.moments import accumulation_dtype
from peelaudit.network.block import Block
from peelaudit.network.memory import batches

__all__ = ["deviation", "sequence_errors", "squared_deviation", "squared_error", "state_error"]


@torch.no_grad()
def squared_error(block: Block, inputs: Tensor, target: Tensor, rows: slice) -> float:
    """‖g(z) - h‖² over the sequences `rows` of [sequences, positions, d_model] states, summed in float64.

    Raises:
        NonFiniteResult: naming the layer.
    """
    total = 0.0
    for part in batches(rows, inputs.shape[1], block.memory.tokens):
        difference = block(block.take(inputs[part])) - block.take(target[part])
        total += float(difference.to(accumulation_dtype(difference.device)).square().sum())
    return _finite(total, block)


@torch.no_grad()
def state_error(block: Block, state: Tensor, target: Tensor, rows: slice) -> float:
    """The same where what the block makes is known."""
    total = 0.0
    for part in batches(rows, state.shape[1], block.memory.tokens):
        difference = block.take(state[part]) - block.take(target[part])
        total += float(difference.to(accumulation_dtype(difference.device)).square().sum())
    return _finite(total, block)


def _finite(total: float, block: Block) -> float:
    if not total < float("inf"):
        raise NonFiniteResult(f"layer {block.layer}: the reference block's output holds NaN or Inf")
    return total


def sequence_errors(state: Tensor, target: Tensor, rows: slice) -> NDArray[np.float64]:
    """[sequences] ‖z - h‖² of each sequence in `rows`, for [sequences, positions, d_model] states; float64 sums."""
    return np.array(
        [
            float((z.double() - h.to(z.device).double()).square().sum())
            for z, h in zip(state[rows], target[rows], strict=True)
        ]
    )


def deviation(state: Tensor, rows: slice) -> NDArray[np.float64]:
    """[sequences] ‖h - mean(h)‖² of each sequence in `rows`, the mean over all their positions: errors' scale."""
    part = state[rows]
    mean = torch.stack([sequence.double().mean(dim=0) for sequence in part]).mean(dim=0)
    return np.array([float((sequence.double() - mean).square().sum()) for sequence in part])


def squared_deviation(state: Tensor, rows: slice) -> float:
    """The sum of `deviation`; the smallest positive number where a state doesn't vary, so that a ratio is defined."""
    return max(float(deviation(state, rows).sum()), float(np.finfo(np.float64).tiny))
