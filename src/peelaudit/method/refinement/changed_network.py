"""A network with some blocks changed: its losses, and their gradient and curvature by what the blocks' maps are.

What is asked for is of the blocks `layers`, the first and the last of them; all others are the trained ones, and only
one block is held at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.changes import Changes, block_changes
from peelaudit.method.linalg.descent import Direction
from peelaudit.method.readouts.shortlist import Nearby
from peelaudit.method.refinement.downstream import Downstream
from peelaudit.network.block import Block
from peelaudit.network.lowbit.constraints import Scales

__all__ = ["ChangedNetwork", "Layers"]

Layers = tuple[int, int]


class ChangedNetwork:
    """A network whose blocks may be changed. All that runs it raises NonFiniteResult where a state became NaN or Inf.

    Attributes:
        down: the network as trained, under a readout.
        rows: the splits.
        n_layers: L.

    Args:
        downstream: that network.
        states: h_0 … h_L, each [sequences, positions, d_model].
    """

    def __init__(self, downstream: Downstream, states: Sequence[Tensor]) -> None:
        self.down, self._states = downstream, states
        self.rows, self.n_layers = downstream.data.rows, len(states) - 1
        self._scales: dict[int, Mapping[str, Scales]] = {}
        self._risen: tuple[Layers, Changes, Tensor] | None = None
        """The blocks and the changes that *fit* was run with last, as they still are, and its last states."""
        dtype = downstream.decoder.dtype
        self._wide = torch.promote_types(dtype, torch.float32)
        self._narrow = dtype if dtype == self._wide else torch.bfloat16

    def block(self, layer: int, changes: Changes) -> Block:
        """A block as the network would have it: changed, and its low-bit weights rounded, with the trained scales.

        Steps add up in the unrounded weights; the gradient at the rounded ones is taken for theirs (straight-through).
        """
        block = self.down.decoder.block(layer)
        if own := block_changes(changes, layer):
            if block.held and layer not in self._scales:  # reading them takes ten times as long as a block
                self._scales[layer] = block.scales()
            changed = block.changed(own)
            return changed.rounded(self._scales[layer]) if block.held else changed
        return block

    def low_bit(self, layers: Layers) -> bool:
        """Whether any of the blocks is held to a set of few values."""
        first, last = layers
        return any(bool(self.down.decoder.block(layer).held) for layer in range(first, last + 1))

    def risen(self, layers: Layers, changes: Changes) -> list[Tensor]:
        """The states of *fit* from the first block's input to h_L."""
        first, last = layers
        states = [self._states[first - 1][self.rows.fit]]
        if not changes:
            return [*states, *(state[self.rows.fit] for state in self._states[first:])]
        for layer in range(first, last + 1):
            states.append(self.down.apply(self.block(layer, changes), states[-1], self._what(layers)))
        states[-1:] = self.down.rise(last, states[-1], self._what(layers))
        self._risen = layers, changes, states[-1]
        return states

    def final(self, layers: Layers, changes: Changes, rows: slice) -> Tensor:
        """h_L of the sequences `rows`, [sequences, positions, d_model]: of *fit*, as it was run last if that was so."""
        fit, known = self.rows.fit, self._known(layers, changes)
        if known is not None and rows.start == fit.start and rows.stop > fit.stop and rows.step is None:
            rest = self.final(layers, changes, slice(fit.stop, rows.stop))
            whole = self.down.store.empty(rows.stop - rows.start, *rest.shape[1:])
            whole[: len(known)], whole[len(known) :] = known, rest
            return whole
        first, last = layers
        state = self._states[first - 1][rows]
        for layer in range(first, self.n_layers + 1):
            block = self.block(layer, changes) if layer <= last else self.down.decoder.block(layer)
            state = self.down.apply(block, state, self._what(layers), into=None if layer == first else state)
        return state

    def _known(self, layers: Layers, changes: Changes) -> Tensor | None:
        """The last states of *fit*, if it was run with these very changes last."""
        if self._risen is None or self._risen[0] != layers or self._risen[1] is not changes:
            return None
        return self._risen[2]

    def losses(self, layers: Layers, changes: Changes, rows: slice) -> NDArray[np.float64]:
        """[sequences] nats of the sequences `rows`."""
        state = self.final(layers, changes, rows)
        return self.down.losses(self.n_layers, state, rows, self._what(layers))

    def loss(self, layers: Layers, changes: Changes, rows: slice) -> float:
        """The loss of the sequences `rows`, nats/token; infinite where something overflows."""
        try:
            return self.loss_of(self.final(layers, changes, rows), rows)
        except NonFiniteResult:
            return math.inf

    def loss_of(self, final: Tensor, rows: slice) -> float:
        """The same of the last states of these sequences. Raises NonFiniteResult."""
        return float(self.down.losses(self.n_layers, final, rows, "the refined network").sum()) / self.predictions(rows)

    def nearby(self, rows: slice) -> Nearby | None:
        """What tells losses of the sequences `rows` near the trained last states, where that saves anything."""
        return self.down.nearby(self._states[-1][rows], rows)

    def swept(self, layers: Layers, changes: Changes, *, slopes: bool = True) -> Direction:
        """The directions of the blocks' maps, by one sweep down, with the slopes along them if they are wanted."""
        found: dict[tuple[int, str], Tensor] = {}
        natural: dict[tuple[int, str], Tensor] = {}
        states = self.risen(layers, changes)
        gradient = self.down.top(states[-1], self.rows.fit)
        first, last = layers
        self.down.descend(states[last - first + 1 : -1], last, gradient)
        for layer in range(last, first - 1, -1):
            factors = self.down.factors(self.block(layer, changes), states[layer - first], gradient)
            for path in list(factors):
                try:
                    curvature = factors.pop(path).curvature(gradient.shape[0] * gradient.shape[1])
                except NonFiniteResult as error:
                    raise NonFiniteResult(f"layer {layer}, {path}: {error}") from error
                if slopes:
                    found[layer, path] = self._keep(curvature.gradient, self._narrow)
                natural[layer, path] = self._keep(curvature.direction(), self._narrow)
            self.down.decoder.memory.reclaim()
        return Direction(found, natural)

    def gradient(self, layers: Layers, at: Changes, states: Sequence[Tensor]) -> Changes:
        """Of the loss on *fit*, nats/token, by what the blocks' maps are; `states` as `risen` has them."""
        return self._pulled(layers, at, states, self.down.top(states[-1], self.rows.fit), self.rows.fit)

    def product(self, layers: Layers, at: Changes, states: Sequence[Tensor], along: Changes, rows: slice) -> Changes:
        """The Gauss-Newton curvature of the loss, nats/token, times a change.

        Args:
            layers: the blocks.
            at: what they are.
            states: of the sequences `rows`, as `risen` has them.
            along: the change.
            rows: whose loss.

        Raises:
            NotImplementedError: a block has no forward-mode derivative.
        """
        first, _ = layers
        tangent = torch.zeros_like(states[0])
        for layer in range(first, self.n_layers + 1):
            self.down.push(self.block(layer, at), states[layer - first], tangent, block_changes(along, layer))
        self.down.bend(states[-1], tangent, rows)
        return self._pulled(layers, at, states, tangent, rows)

    def modelled(self, along: Changes, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[sequences] the slopes and the curvatures of the losses along a change of the trained blocks; errors as
        `product`.
        """
        tangent = torch.zeros_like(self._states[0][rows])
        for layer in range(1, self.n_layers + 1):
            inputs = self._states[layer - 1][rows]
            self.down.push(self.down.decoder.block(layer), inputs, tangent, block_changes(along, layer))
        return self.down.along(self._states[-1][rows], tangent, rows)

    def _pulled(self, layers: Layers, at: Changes, states: Sequence[Tensor], gradient: Tensor, rows: slice) -> Changes:
        """What a gradient at h_L of the sequences `rows` is at the blocks' maps, per prediction; it is overwritten."""
        found: dict[tuple[int, str], Tensor] = {}
        first, last = layers
        self.down.descend(states[last - first + 1 : -1], last, gradient)
        for layer in range(last, first - 1, -1):
            products = self.down.gradients(self.block(layer, at), states[layer - first], gradient)
            for path, product in products.items():
                found[layer, path] = self._keep(product / self.predictions(rows))
        return found

    def kept(self, changes: Changes) -> Changes:
        """Copies in the store."""
        return {key: self._keep(change) for key, change in changes.items()}

    def directed(self, direction: Changes) -> Changes:
        """Copies of a direction in the store: of a network in half precision in bfloat16, which is as much of a step as
        its weights hold.
        """
        return {key: self._keep(change, self._narrow) for key, change in direction.items()}

    def stepped(self, changes: Changes, step: Changes) -> Changes:
        """The changes after a step, in the store. Those given are gone: of a large network two sums don't fit."""
        self._risen = None
        return {
            key: changes[key].add_(change.to(changes[key])) if key in changes else self._keep(change)
            for key, change in step.items()
        }

    def predictions(self, rows: slice) -> int:
        """How many tokens the sequences `rows` predict."""
        return int(self.down.data.predictions(rows).sum())

    def _keep(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return self.down.store.empty(*tensor.shape, dtype=dtype or self._wide).copy_(tensor)

    def _what(self, layers: Layers) -> str:
        first, last = layers
        return f"the network with layer{f' {first}' if first == last else f's {first} to {last}'} refined"
