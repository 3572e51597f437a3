"""A reference block by gradient: Adam on every weight of the block, mean squared error, minibatches of sequences.

The paper's solver. A low-bit matrix is trained straight-through: Adam moves float weights, which the block has rounded,
and their scales (`Constraint.straight_through`). Steps are in proportion to each tensor's own size (`RELATIVE_STEP`
times its root mean square), so that one setting serves models whose weights differ by orders of magnitude; the loss is
divided by the target's variance for the same reason. The step falls to zero along a cosine. What is kept is the best on
*select* of the start and four stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.references.closed_form import FittedBlock
from peelaudit.method.references.distances import squared_error
from peelaudit.network.block import Block
from peelaudit.network.lowbit.constraints import Scales
from peelaudit.network.memory import batches
from peelaudit.network.states import Rows

__all__ = ["Latent", "adam"]

BATCH_TOKENS = 2048
RELATIVE_STEP = 0.01
"""For the float weights behind low-bit ones too, which change nothing until they cross to the next value: five times as
long a step lowered the error of far targets, and raised the bounds of near schedules, which are those that matter.
"""
STOPS = 4


def adam(start: FittedBlock, inputs: Tensor, target: Tensor, rows: Rows, *, steps: int, seed: int) -> FittedBlock:
    """Fit the block to `target` from `start`, both states [sequences, positions, d_model].

    Returns:
        The best on *select*: `start` itself if no stop was better.

    Raises:
        NonFiniteResult: naming the layer, if the loss becomes NaN or Inf.
    """
    block = start.block.copy()
    latent = Latent(block)
    groups = [{"params": [parameter], "lr": RELATIVE_STEP * _size(parameter)} for parameter in latent.parameters]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, min(BATCH_TOKENS // inputs.shape[1], rows.fit.stop))
    scale = float(target[rows.fit].float().var())
    best, stops = start, {round(steps * i / STOPS) for i in range(1, STOPS + 1)}
    for step in range(1, steps + 1):
        chosen = torch.randint(rows.fit.start, rows.fit.stop, (batch,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        for part in batches(slice(0, batch), inputs.shape[1], block.memory.tokens):
            few = chosen[part]
            with torch.enable_grad():
                difference = block(block.take(inputs[few]), latent.weights() or None) - block.take(target[few])
                loss = difference.square().mean() / scale * (len(few) / batch)
            if not bool(torch.isfinite(loss)):
                raise NonFiniteResult(f"layer {block.layer}: the loss of Adam became NaN or Inf at step {step}")
            loss.backward()
        block.work.add(2 * batch)
        optimizer.step()
        cosine.step()
        if step in stops:
            kept = latent.rounded()
            error = squared_error(kept, inputs, target, rows.select)
            if error < best.error:
                best = replace(start, block=kept, method="adam", error=error)
    return best


class Latent:
    """The float weights behind a block that may be low-bit, and the scales that Adam trains with them.

    The block's parameters become the latent weights; `parameters` are all that is trained.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        named = dict(block.module.named_parameters())
        self._matrices = {name: (held, named[name]) for name, held in block.held.items()}
        self._scales = _copied(block.scales())
        trained = [*block.trainable().values(), *(scales.scale for scales in self._scales.values())]
        self.parameters = [parameter.requires_grad_() for parameter in trained]

    def weights(self) -> dict[str, Tensor]:
        """The low-bit matrices, by name, as the block is to have them."""
        return {
            name: held.parameter(held.constraint.straight_through(held.matrix(weight), self._scales[name])).to(weight)
            for name, (held, weight) in self._matrices.items()
        }

    def rounded(self) -> Block:
        """A copy of the block as it is now, in its low-bit sets."""
        return self._block.copy().rounded(_copied(self._scales))


def _copied(scales: Mapping[str, Scales]) -> dict[str, Scales]:
    """Scales that no other block has in its hands: in float16 and bfloat16 the copies of a block share theirs."""
    return {name: Scales(each.scale.detach().clone(), each.zero) for name, each in scales.items()}


def _size(parameter: Tensor) -> float:
    """Root mean square; a hundredth for a tensor of zeros, such as a fresh bias."""
    size = float(parameter.detach().float().square().mean().sqrt())
    return size if size > 0 else 0.01
