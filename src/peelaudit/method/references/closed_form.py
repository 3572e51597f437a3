"""A reference block in closed form: the ridge change of its writers, chosen and judged on *select* by what the real
block makes, which is known without running it where its output is linear in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.moments import Moments, accumulation_dtype
from peelaudit.method.linalg.ridge import Conditioning, Ridge
from peelaudit.method.references.distances import squared_error, state_error
from peelaudit.method.references.ridge_change import RidgeChange, rounded
from peelaudit.method.references.writers import (
    Observation,
    observe,
    split_change,
    trainable_writers,
    undo_gains,
)
from peelaudit.network.block import Block
from peelaudit.network.memory import batches
from peelaudit.network.states import Rows, StateStore

__all__ = ["BlockRegression", "FittedBlock", "RidgeChange"]

STEPS = (1.0, 0.5, 0.25, 0.125)
"""How far along a direction that a norm makes inexact."""


@dataclass(frozen=True, slots=True)
class FittedBlock:
    """A block fitted to one target. `penalty` is None where no ridge change was taken; `error` is the summed squared
    error on *select*, `trained_error` that of the trained weights. `conditioning` is that of the regression, if there
    was one. `state` is what the block makes of all its inputs, [sequences, positions, d_model], where that is known.
    """

    block: Block
    method: str
    penalty: float | None
    error: float
    trained_error: float
    conditioning: Conditioning | None = None
    state: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Sums:
    """Over some rows: the moments of each group of features with the residuals of the tokens that go through it, and
    ‖R‖² of all tokens by target.
    """

    groups: tuple[Moments, ...]
    square: Tensor


class _Kept(NamedTuple):
    """What a block made of its inputs, [sequences, positions, d_model], and its writers' features there; and where
    more goes.
    """

    outputs: Tensor
    features: Tensor
    store: StateStore


class BlockRegression:
    """The regression of one block on one input, of any number of targets.

    The experts of a mixture are regressed each by itself, as if the others stayed as they are, on the tokens that the
    router gives to it: together they may go too far, so that how far is chosen as it is behind a norm.

    Args:
        block: with its trained weights.
        inputs: z_{k-1}, [sequences, positions, d_model].
        targets: the states to fit to, each of that shape.
        rows: the splits; it is fitted on *fit*, and judged on *select*.
        store: where what the block makes of all inputs goes, for the states of fitted blocks. Nothing is kept of it if
            None, where there is no room in memory, where the output isn't linear in what changes, and in half
            precision, in which a sum of two products isn't the product with the sum.

    Raises:
        NonFiniteResult: if features or residuals aren't finite.
    """

    def __init__(
        self,
        block: Block,
        inputs: Tensor,
        targets: Sequence[Tensor],
        rows: Rows,
        store: StateStore | None = None,
    ) -> None:
        self._block, self._inputs, self._targets, self._rows = block, inputs, targets, rows
        probe = block.take(inputs[:1])
        self.writers = trainable_writers(block, probe)
        self._sizes = [group.values.shape[1] for group in observe(block, probe, self.writers).groups]
        self.features = sum(self._sizes)
        self._kept = None if store is None else self._room(store)
        self._fit, self._select = self._sums(rows.fit), self._sums(rows.select)
        self.ridges = [Ridge(moments.gram, moments.rows) for moments in self._fit.groups]

    def _room(self, store: StateStore) -> _Kept | None:
        """For what the block makes, if it is to be kept."""
        shapes = (*self._inputs.shape,), (*self._inputs.shape[:-1], self.features)
        half = next(self._block.module.parameters()).dtype in (torch.float16, torch.bfloat16)
        if half or not self.exact or not store.fits(*shapes):
            return None
        outputs, features = (store.empty(*shape) for shape in shapes)
        return _Kept(outputs, features, store)

    def _sums(self, rows: slice) -> _Sums:
        device = next(self._block.module.parameters()).device
        width, count = self._inputs.shape[-1], len(self._targets)
        groups = [Moments(size, width, count, device) for size in self._sizes]
        square = torch.zeros(count, dtype=accumulation_dtype(device), device=device)
        for part in batches(rows, self._inputs.shape[1], self._block.memory.tokens):
            seen = self._seen(part)
            output = seen.output.to(square.dtype)
            residuals = [
                self._block.take(t[part]).reshape(output.shape).to(output.dtype) - output for t in self._targets
            ]
            square += torch.stack([residual.square().sum() for residual in residuals])
            for moments, features in zip(groups, seen.groups, strict=True):
                moments.add(features.values, (features.of(residual) for residual in residuals))
        if not bool(torch.isfinite(square).all()):
            raise NonFiniteResult(f"layer {self._block.layer}: the residuals hold NaN or Inf")
        return _Sums(tuple(groups), square)

    def _seen(self, part: slice) -> Observation:
        """What the trained block makes of some sequences, kept where it is to be."""
        seen = observe(self._block, self._block.take(self._inputs[part]), self.writers)
        if self._kept is not None:
            for kept, found in zip(self._kept[:2], (seen.output, seen.features), strict=True):
                kept[part] = found.view(*kept[part].shape).to(kept.dtype)
        return seen

    @property
    def conditioning(self) -> Conditioning:
        """How well the rows determine the solution, all groups together."""
        found = [ridge.conditioning for ridge in self.ridges]
        return Conditioning(
            unknowns=sum(one.unknowns for one in found),
            rank=sum(one.rank for one in found),
            condition=max(one.condition for one in found),
        )

    def change(self, target: int) -> RidgeChange | None:
        """The change for `targets[target]` that is best on *select*; None if leaving the weights is."""
        return self._changes[target]

    def _ridge(self) -> list[RidgeChange | None]:
        """By target, each group's ridge solution, its penalty the best on *select*; the error is right for one group.
        None where no group's helps.
        """
        groups = zip(self.ridges, self._fit.groups, self._select.groups, strict=True)
        solved = [ridge.best(fit.cross, select) for ridge, fit, select in groups]
        found: list[RidgeChange | None] = []
        for target, solutions in enumerate(zip(*solved, strict=True)):
            penalties = tuple(None if one is None else one.penalty for one in solutions)
            if all(one is None for one in solutions):
                found.append(None)
                continue
            parts = [
                torch.zeros_like(fit.cross[target]) if one is None else one.value
                for one, fit in zip(solutions, self._fit.groups, strict=True)
            ]
            error = self.trained_error(target) if solutions[-1] is None else solutions[-1].error
            found.append(RidgeChange(parts[0] if len(parts) == 1 else torch.cat(parts), penalties, error))
        return found

    @cached_property
    def _changes(self) -> tuple[RidgeChange | None, ...]:
        """For every target, the best step of each."""
        found = self._ridge()
        if self.exact and not self.low_bit:
            return tuple(found)
        best: list[RidgeChange | None] = [None] * len(found)
        for step in (1.0,) if self.exact else STEPS:
            directions = [
                None if one is None else replace(one, value=undo_gains(self._block, self.writers, step * one.value))
                for one in found
            ]
            if self.low_bit:
                grams = [
                    (moments.gram, ridge.mean) for moments, ridge in zip(self._fit.groups, self.ridges, strict=True)
                ]
                directions = rounded(self._block, self.writers, grams, directions)
            for target, change in enumerate(directions):
                if change is None:
                    continue
                error, known = self._select_error(change.value, target), best[target]
                if error < (self.trained_error(target) if known is None else known.error):
                    best[target] = replace(change, error=error)
                elif known is not None:
                    found[target] = None  # shorter ones are taken to be worse still
        return tuple(best)

    def _select_error(self, change: Tensor, target: int) -> float:
        if not self.exact:
            block = self._changed_block(change)
            return squared_error(block, self._inputs, self._targets[target], self._rows.select)
        (moments,) = self._select.groups
        return moments.error(change, target)

    @cached_property
    def low_bit(self) -> bool:
        """Whether any of the writers that change is held to a low-bit set."""
        return any(self._block.writer_held(index) is not None for index in self.writers)

    def _changed_block(self, change: Tensor) -> Block:
        return self._block.changed(split_change(self._block, self.writers, change))

    def trained_error(self, target: int) -> float:
        """‖R‖² of the trained weights on *select*."""
        return float(self._select.square[target])

    @property
    def exact(self) -> bool:
        """Whether the solution is one of the block's output: no norm stands behind a writer, and no expert was solved
        by itself.
        """
        return len(self._sizes) == 1 and all(self._block.norms[index] is None for index in self.writers)

    @torch.no_grad()
    def errors(self, changes: Sequence[RidgeChange | None], rows: slice) -> NDArray[np.float64]:
        """[targets, sequences] ‖g(z) - h_j‖² of the changed blocks, one for each target, over `rows`."""
        parts = []
        for part in batches(rows, self._inputs.shape[1], self._block.memory.tokens):
            hidden = self._block.take(self._inputs[part])
            seen = observe(self._block, hidden, self.writers)
            results = []
            for target, change in zip(self._targets, changes, strict=True):
                output = seen.output if change is None else self._changed(change, hidden, seen)
                difference = output - self._block.take(target[part]).reshape(output.shape)
                squares = difference.to(accumulation_dtype(output.device)).view(len(hidden), -1).square()
                results.append(squares.sum(dim=1).cpu().numpy())
            parts.append(np.stack(results))
        return np.concatenate(parts, axis=1)

    def _changed(self, change: RidgeChange, hidden: Tensor, seen: Observation) -> Tensor:
        if self.exact:
            return seen.output + seen.features @ change.value.to(seen.features.dtype)
        return self._changed_block(change.value)(hidden).reshape(seen.output.shape)

    def fit(self, target: int) -> FittedBlock:
        """The block fitted to `targets[target]`: on *select* the real block is no worse than with trained weights."""
        trained_error, conditioning = self.trained_error(target), self.conditioning
        if (change := self.change(target)) is not None:
            block, state = self._changed_block(change.value), self._state(change)
            if state is not None:
                error = state_error(block, state, self._targets[target], self._rows.select)
            elif self.exact:
                error = squared_error(block, self._inputs, self._targets[target], self._rows.select)
            else:  # taken from the real block
                error = change.error
            if error < trained_error:
                return FittedBlock(block, "ridge", change.penalty, error, trained_error, conditioning, state)
        state = self._state(None)
        return FittedBlock(self._block, "trained", None, trained_error, trained_error, conditioning, state)

    @torch.no_grad()
    def _state(self, change: RidgeChange | None) -> Tensor | None:
        """What the block with this change makes of all inputs: its output is linear in what changes, so that nothing is
        computed anew; None where nothing is kept.
        """
        kept = self._whole
        if kept is None or change is None:
            return None if kept is None else kept.outputs
        if not kept.store.fits(kept.outputs.shape):
            return None
        state = kept.store.empty(*kept.outputs.shape)
        value, block = self._block.take(change.value), self._block
        share = value.numel() / sum(weight.numel() for weight in block.trainable().values())
        for part in batches(slice(0, len(state)), state.shape[1], block.memory.tokens):
            block.work.add(share * (part.stop - part.start))
            outputs, features = (block.take(one[part]) for one in kept[:2])
            state[part] = torch.addmm(
                outputs.flatten(0, 1), features.flatten(0, 1), value
            ).view_as(outputs).to(state.dtype)  # fmt: skip
        return state

    @cached_property
    def _whole(self) -> _Kept | None:
        """What is kept, of *held-out* too."""
        if self._kept is not None:
            for part in batches(self._rows.held_out, self._inputs.shape[1], self._block.memory.tokens):
                self._seen(part)
        return self._kept
