"""Networks with rounded matrices, made in memory and measured: each matrix alone, and plans for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peelaudit.method.diagnosis.swaps import BASE, Outcome, Swaps
from peelaudit.network.block import Block
from peelaudit.network.counterparts import Counterparts
from peelaudit.network.decoder import Decoder
from peelaudit.network.matrices import group_of, matrices, rounded
from peelaudit.network.states import StateStore, TokenRows

__all__ = ["Part", "Plan", "Trials", "parts_of"]

Plan = tuple[int, ...]
"""The bits of each part's weights."""


@dataclass(frozen=True, slots=True)
class Part:
    """A matrix of a block, by its name there: how many weights it has, how many scales, and the lengths of the groups
    that share one. A mixture's experts have one together.
    """

    layer: int
    name: str
    weights: int
    scales: int
    groups: tuple[int, ...]


def parts_of(decoder: Decoder, group: int) -> tuple[Part, ...]:
    """The parts of a network, from the bottom up; see `group_of` for the groups."""
    found = []
    for layer in range(1, decoder.n_layers + 1):
        for name, maps in matrices(decoder.block(layer)).items():
            sizes = [(one.weight.numel(), group_of(one.inputs, group)) for one in maps]
            groups = tuple(sorted({length for _, length in sizes}))
            weights, scales = sum(size for size, _ in sizes), sum(size // length for size, length in sizes)
            found.append(Part(layer, name, weights, scales, groups))
    return tuple(found)


class Trials:
    """Rounded networks on some text.

    Args:
        decoder: the float network.
        parts: what is rounded.
        group: see `group_of`.
        data: the tokens.
        store: where states go.
    """

    def __init__(self, decoder: Decoder, parts: Sequence[Part], group: int, data: TokenRows, store: StateStore) -> None:
        self._decoder, self._parts, self._group = decoder, parts, group
        self._data, self._store = data, store

    def cost(self, name: str) -> float:
        """Forward passes for each sequence that `alone` takes."""
        own = self._named(name)
        return 2 + self._swaps(dict.fromkeys(own, 0)).cost([frozenset({part.layer}) for part in own])

    def alone(self, name: str, bits: int) -> tuple[Outcome, Mapping[Part, Outcome]]:
        """What the float network makes of the text, and that with the part of that name rounded in one block at a time.

        Raises:
            NonFiniteResult: a state or a loss became NaN or Inf.
        """
        own = self._named(name)
        mixes = {part: frozenset({part.layer}) for part in own}
        _, found = self._swaps(dict.fromkeys(own, bits)).run(mixes.values(), np.arange(len(self._data.tokens)))
        return found[BASE], {part: found[mix] for part, mix in mixes.items()}

    def whole(self, plan: Plan) -> tuple[Outcome, Outcome]:
        """What the float network makes of the text, and that with all parts rounded.

        Raises:
            NonFiniteResult: a state or a loss became NaN or Inf.
        """
        swaps = self._swaps(dict(zip(self._parts, plan, strict=True)))
        found, _ = swaps.run([], np.arange(len(self._data.tokens)))
        return found[BASE], found[swaps.new]

    def _named(self, name: str) -> list[Part]:
        return [part for part in self._parts if part.name == name]

    def _swaps(self, bits: Mapping[Part, int]) -> Swaps:
        """The float network and that with some parts rounded."""
        layers = frozenset(part.layer for part in bits)
        new = self._decoder.replacing_each(layers, lambda layer: self._rounded(layer, bits))
        pair = Counterparts(self._decoder, new, layers)
        return Swaps(pair, self._data, self._store)

    def _rounded(self, layer: int, bits: Mapping[Part, int]) -> Block:
        own = {part.name: width for part, width in bits.items() if part.layer == layer}
        return rounded(self._decoder.block(layer), own, self._group)
