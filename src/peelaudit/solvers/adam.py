"""A reference block by gradient: Adam on every weight of the block, mean squared error, minibatches of sequences.

The paper's solver. Steps are in proportion to each tensor's own size (`RELATIVE_STEP` times its root mean square),
so that one setting serves models whose weights differ by orders of magnitude; the loss is divided by the target's
variance for the same reason. The step falls to zero along a cosine. What is kept is the best on *select* of the
start and four stops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.hidden_states import Rows
from peelaudit.solvers.closed_form import FittedBlock, squared_error

__all__ = ["adam"]

BATCH_TOKENS = 2048
RELATIVE_STEP = 0.01
STOPS = 4


def adam(start: FittedBlock, inputs: Tensor, target: Tensor, rows: Rows, *, steps: int, seed: int) -> FittedBlock:
    """Fit the block to `target` from `start`, both states [sequences, positions, d_model].

    Returns:
        The best on *select*: `start` itself if no stop was better.

    Raises:
        NonFiniteResult: naming the layer, if the loss becomes NaN or Inf.
    """
    block = start.block.copy()
    parameters = [p.requires_grad_() for p in block.parameters()]
    optimizer = torch.optim.Adam([{"params": [p], "lr": _step_size(p)} for p in parameters], betas=(0.9, 0.95))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, min(BATCH_TOKENS // inputs.shape[1], rows.fit.stop))
    scale = float(target[rows.fit].float().var())
    best, stops = start, {round(steps * i / STOPS) for i in range(1, STOPS + 1)}
    for step in range(1, steps + 1):
        chosen = torch.randint(rows.fit.start, rows.fit.stop, (batch,), generator=generator)
        with torch.enable_grad():
            difference = block(block.take(inputs[chosen])) - block.take(target[chosen])
            loss = difference.square().mean() / scale
        if not bool(torch.isfinite(loss)):
            raise NonFiniteResult(f"layer {block.layer}: the loss of Adam became NaN or Inf at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        cosine.step()
        if step in stops:
            error = squared_error(block, inputs, target, rows.select)
            if error < best.error:
                kept = block.copy()
                kept.module.requires_grad_(requires_grad=False)
                best = FittedBlock(kept, "adam", start.penalty, error, start.trained_error)
    return best


def _step_size(parameter: Tensor) -> float:
    size = float(parameter.detach().float().square().mean().sqrt())
    return RELATIVE_STEP * size if size > 0 else 1e-4
