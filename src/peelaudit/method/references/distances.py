"""Squared distances of states, summed in float64."""

from __future__ import annotations

from collections.abc import Callable

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
    return _summed(block, lambda part: block(block.take(inputs[part])), target, rows)


@torch.no_grad()
def state_error(block: Block, state: Tensor, target: Tensor, rows: slice) -> float:
    """The same where what the block makes is known."""
    return _summed(block, lambda part: block.take(state[part]), target, rows)


def _summed(block: Block, made: Callable[[slice], Tensor], target: Tensor, rows: slice) -> float:
    total = 0.0
    for part in batches(rows, target.shape[1], block.memory.tokens):
        difference = made(part) - block.take(target[part])
        total += float(difference.to(accumulation_dtype(difference.device)).square().sum())
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
