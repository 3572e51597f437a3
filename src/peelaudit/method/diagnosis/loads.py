"""The experts' loads: which share of a text's tokens a mixture's router gives to each of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.network.block import Block
from peelaudit.network.memory import batches

__all__ = ["loads"]


@torch.no_grad()
def loads(block: Block, inputs: Tensor) -> NDArray[np.float64] | None:
    """[sequences, experts] the share of each sequence's tokens that every expert is given; None without experts.

    Args:
        block: as trained.
        inputs: of the block, [sequences, positions, d_model].
    """
    if not block.experts:
        return None
    found = np.zeros((len(inputs), block.experts))
    for part in batches(slice(0, len(inputs)), inputs.shape[1], block.memory.tokens):
        with block.watched() as routes:
            block(block.take(inputs[part]))
        for number in range(block.experts):
            sequences = routes.of(number)[0] // inputs.shape[1]
            found[part, number] = torch.bincount(sequences, minlength=part.stop - part.start).cpu().numpy()
    return found / inputs.shape[1]
