"""A reference block in closed form: the ridge change of its writers, chosen and judged on *select* by the real
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.decoder import Block
from peelaudit.errors import NonFiniteResult
from peelaudit.hidden_states import Rows, batches
from peelaudit.solvers.features import Observation, apply_change, observe, split_change, trainable_writers
from peelaudit.solvers.moments import Moments
from peelaudit.solvers.ridge import Factorisation, best_penalty, factorise, rotate_gram

__all__ = ["BlockRegression", "FittedBlock", "RidgeChange", "squared_error"]

STEPS = (1.0, 0.5, 0.25, 0.125)
"""How far along a direction that a norm makes inexact."""


@dataclass(frozen=True, slots=True)
class FittedBlock:
    """A block fitted to one target. `penalty` is None where no ridge change was taken; `error` is the summed squared
    error on *select*, `trained_error` that of the trained weights.
    """

    block: Block
    method: str
    penalty: float | None
    error: float
    trained_error: float


@dataclass(frozen=True, slots=True)
class RidgeChange:
    """A change of a block's writers: `value` [features, d_model] float64, and its summed squared error on *select*."""

    value: Tensor
    penalty: float
    error: float


class BlockRegression:
    """The regression of one block on one input, factorised once for any number of targets.

    Args:
        block: with its trained weights.
        inputs: z_{k-1}, [sequences, positions, d_model].
        targets: the states to fit to, each of that shape.
        rows: the splits; only *fit* and *select* are looked at.

    Raises:
        NonFiniteResult: if features or residuals aren't finite.
    """

    def __init__(self, block: Block, inputs: Tensor, targets: Sequence[Tensor], rows: Rows) -> None:
        self._block, self._inputs, self._targets, self._rows = block, inputs, targets, rows
        probe = block.take(inputs[:1])
        self.writers = trainable_writers(block, probe)
        self.features = observe(block, probe, self.writers).features.shape[1]
        self._fit = self._moments(rows.fit)
        self._select = self._moments(rows.select)
        self.factorisation: Factorisation = factorise(self._fit.gram, self._fit.rows)
        self._rotated_gram = rotate_gram(self.factorisation, self._select)

    def _moments(self, rows: slice) -> Moments:
        device = next(self._block.module.parameters()).device
        moments = Moments(self.features, self._inputs.shape[-1], len(self._targets), device)
        for part in batches(rows, self._inputs.shape[1]):
            seen = observe(self._block, self._block.take(self._inputs[part]), self.writers)
            output = seen.output.to(moments.gram.dtype)
            residuals = (
                self._block.take(t[part]).reshape(output.shape).to(output.dtype) - output for t in self._targets
            )
            moments.add(seen.features, residuals)
        if not bool(torch.isfinite(moments.square).all()):
            raise NonFiniteResult(f"layer {self._block.layer}: the residuals hold NaN or Inf")
        return moments

    def change(self, target: int) -> RidgeChange | None:
        """The ridge change for `targets[target]` that is best on *select*; None if leaving the weights is.

        Where a norm stands behind a writer the solution is a direction: the real block judges how far to go along it.
        """
        cross = self._fit.cross[target]
        penalty, error = best_penalty(self.factorisation, cross, self._select, target, rotated_gram=self._rotated_gram)
        if penalty is None:
            return None
        value = self.factorisation.solve(cross, penalty).value
        if self.exact:
            return RidgeChange(value, penalty, error)
        tried = [RidgeChange(step * value, penalty, self._real_error(step * value, target)) for step in STEPS]
        best = min(tried, key=lambda change: change.error)
        return best if best.error < self.trained_error(target) else None

    def _real_error(self, change: Tensor, target: int) -> float:
        return squared_error(self._changed_block(change), self._inputs, self._targets[target], self._rows.select)

    def _changed_block(self, change: Tensor) -> Block:
        return apply_change(self._block, split_change(self._block, self.writers, change))

    def trained_error(self, target: int) -> float:
        """‖R‖² of the trained weights on *select*."""
        return float(self._select.square[target])

    @property
    def exact(self) -> bool:
        """Whether the output is linear in the change: no norm stands behind a writer."""
        return all(self._block.norms[index] is None for index in self.writers)

    @torch.no_grad()
    def errors(self, changes: Sequence[RidgeChange | None], rows: slice) -> NDArray[np.float64]:
        """[targets, sequences] ‖g(z) - h_j‖² of the changed blocks, one for each target, over `rows`."""
        parts = []
        for part in batches(rows, self._inputs.shape[1]):
            hidden = self._block.take(self._inputs[part])
            seen = observe(self._block, hidden, self.writers)
            results = []
            for target, change in zip(self._targets, changes, strict=True):
                output = seen.output if change is None else self._changed(change, hidden, seen)
                difference = (output - self._block.take(target[part]).reshape(output.shape)).double()
                results.append(difference.view(len(hidden), -1).square().sum(dim=1).cpu().numpy())
            parts.append(np.stack(results))
        return np.concatenate(parts, axis=1)

    def _changed(self, change: RidgeChange, hidden: Tensor, seen: Observation) -> Tensor:
        if self.exact:
            return seen.output + seen.features @ change.value.to(seen.features.dtype)
        return self._changed_block(change.value)(hidden).reshape(seen.output.shape)

    def fit(self, target: int) -> FittedBlock:
        """The block fitted to `targets[target]`: on *select* the real block is no worse than with trained weights."""
        trained_error = self.trained_error(target)
        if (change := self.change(target)) is not None:
            block = self._changed_block(change.value)
            error = squared_error(block, self._inputs, self._targets[target], self._rows.select)
            if error < trained_error:
                return FittedBlock(block, "ridge", change.penalty, error, trained_error)
        return FittedBlock(self._block, "trained", None, trained_error, trained_error)


@torch.no_grad()
def squared_error(block: Block, inputs: Tensor, target: Tensor, rows: slice) -> float:
    """‖g(z) - h‖² over the sequences `rows` of [sequences, positions, d_model] states, summed in float64.

    Raises:
        NonFiniteResult: naming the layer.
    """
    total = 0.0
    for part in batches(rows, inputs.shape[1]):
        difference = block(block.take(inputs[part])) - block.take(target[part])
        total += (
            float(difference.double().square().sum())
            if difference.device.type != "mps"
            else float(difference.square().sum())
        )
    if not total < float("inf"):
        raise NonFiniteResult(f"layer {block.layer}: the reference block's output holds NaN or Inf")
    return total
