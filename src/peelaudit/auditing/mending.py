"""What `fix` changes in a network: its blocks refined together or one after another, and its head refitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from peelaudit.auditing.feeding import fed
from peelaudit.auditing.measure import Measurer
from peelaudit.auditing.prepare import Prepared, held_decoder
from peelaudit.calibration import Calibration
from peelaudit.errors import NothingToFix
from peelaudit.method.diagnosis.naming import name_layers
from peelaudit.method.readouts.readout import Readout
from peelaudit.method.refinement.reach import Reach
from peelaudit.method.refinement.refine import Refined
from peelaudit.method.statistics.panel import Losses, SplitName
from peelaudit.network.block import Block
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore
from peelaudit.network.unembedding import Unembedding
from peelaudit.records import Estimate, Grid
from peelaudit.settings.bits import parse_bits

__all__ = ["Bench", "Cure"]


@dataclass(frozen=True, slots=True)
class Cure:
    """A network with other weights.

    Attributes:
        decoder: the network.
        layers: whose weights are others.
        head: another head, None where it is as it was.
        steps: natural-gradient steps.
        products: with the Gauss-Newton curvature.
    """

    decoder: Decoder
    layers: tuple[int, ...]
    head: Unembedding | None
    steps: int
    products: int


class _Tried(NamedTuple):
    """A cure, and its losses, [sequences] nats, on *select*."""

    cure: Cure
    select: Losses


class Bench:
    """A checkpoint open, its network, and what measures it on the calibration tokens.

    Attributes:
        audit: the checkpoint and the settings.
        decoder: the network.
        calibration: the tokens as the network is fed them.
        store: where states go.
    """

    def __init__(self, audit: Prepared, calibration: Calibration | None = None, *, exact: bool = False) -> None:
        """Read every weight, and take the losses.

        Args:
            audit: the checkpoint and the settings.
            calibration: fed already; None where it wasn't.
            exact: whether blocks that are moved are left as they are, not rounded to what they would be stored as.
        """
        grids = audit.checked()
        self.audit, self._exact = audit, exact
        self.decoder, self._low_bit = held_decoder(audit, grids)
        self.store = StateStore(dtype=self.decoder.dtype, device=self.decoder.device)
        if calibration is None:
            calibration = fed(audit.calibration, self.decoder, audit.config.bos, self.store, progress=audit.clock)
        self.calibration = calibration
        self._measurer = self.measurer(self.decoder)

    def measurer(self, decoder: Decoder) -> Measurer:
        """Of a network of this shape."""
        return Measurer(decoder, self.calibration, self.audit.config, store=self.store)

    @property
    def losses(self) -> Losses:
        """[sequences] nats of *held-out*, under the network's own head."""
        return self._measurer.own[self._measurer.rows.held_out]

    def losses_of(self, decoder: Decoder, head: Unembedding | None) -> Losses:
        """The same of another network of this shape, under a head or its own."""
        return self._measurer.losses_of(decoder, Readout("own", head or Unembedding.of(decoder)))

    def estimate(self, losses: Losses, split: SplitName = "held_out") -> Estimate:
        """nats/token of a split, of [sequences] a loss or a difference of two."""
        panel = self._measurer.panel
        whole = np.zeros(len(panel.index))
        whole[panel.splits[split]] = losses
        return panel.estimate(whole, split)

    def refined(self) -> Cure:
        """All blocks moved together: as they are, or from where the one is that gains most alone; or that one alone,
        unless the others gain more on *select* than chance does. With all at once, much is made up for by healthy
        blocks that is wrong in one, and the more is moved, the less of what *select* likes holds elsewhere.
        """
        straight = self._together(self._measurer)
        reach = self.audit.extent.alone
        if reach is None or self._measurer.head.kind != "own":
            return straight.cure
        best = max(self._measurer.refiner.each(reach, progress=self.audit.clock), key=lambda one: one.select_gain)
        if not best.moved:
            return straight.cure
        alone = self._tried(self._measurer, best)
        (block,) = self._measurer.refiner.blocks(best)
        around = self._together(self.measurer(self.decoder.replacing(block)), alone)
        most = min(straight, around, key=lambda one: float(one.select.sum()))
        return most.cure if self.estimate(alone.select - most.select, "select").low > 0 else alone.cure

    def _together(self, measurer: Measurer, first: _Tried | None = None) -> _Tried:
        """All blocks moved, in the network that was tried first."""
        found = measurer.refiner.all(self.audit.extent.whole, progress=self.audit.clock)
        return self._tried(measurer, found, first)

    def _tried(self, measurer: Measurer, found: Refined, first: _Tried | None = None) -> _Tried:
        refiner, select = measurer.refiner, measurer.refiner.losses(found, measurer.rows.select)
        if first is not None and not found.moved:
            return first
        layers = range(found.layers[0], found.layers[1] + 1) if found.moved else ()
        steps, products = found.steps, found.products
        if first is not None:
            steps, products = steps + first.cure.steps, products + first.cure.products
        return _Tried(self._cure(layers, lambda layer: refiner.block(found, layer), steps, products, measurer), select)

    def one_by_one(self, layers: Iterable[int], reach: Reach) -> Cure:
        """Some blocks moved, the last first, each in the network that has those before it."""
        decoder, measurer = self.decoder, self._measurer
        blocks: dict[int, Block] = {}
        steps = products = 0
        for layer in sorted(layers, reverse=True):
            if blocks:
                measurer = self.measurer(decoder)
            found = measurer.refiner.alone(layer, reach)
            if found.moved:
                blocks[layer] = measurer.refiner.block(found, layer)
                decoder = decoder.replacing(blocks[layer])
                steps, products = steps + found.steps, products + found.products
        return self._cure(sorted(blocks), blocks.__getitem__, steps, products, measurer)

    def named(self, reach: Reach) -> tuple[int, ...]:
        """The layers that an audit names.

        Raises:
            NothingToFix: there is none.
        """
        examiner = self._measurer.examiner()
        gains = self._measurer.gaps(examiner, reach)
        named = name_layers(self._measurer.examination(examiner, gains)).named
        if not named:
            raise NothingToFix("no layer is named: nothing was written")
        return named

    def _cure(
        self, layers: Iterable[int], make: Callable[[int], Block], steps: int, products: int, measurer: Measurer
    ) -> Cure:
        """With the blocks that `make` gives, and the head of the network that they were moved in; where the settings
        round all matrices, all others are others too.
        """
        layers = tuple(layers)
        head = self._head(measurer.head)
        rounds = isinstance(parse_bits(self.audit.config.bits), Grid)
        changed = tuple(range(1, self.decoder.n_layers + 1)) if rounds and (layers or head) else layers
        decoder = self.decoder.replacing_each(
            changed, lambda layer: self._as_stored(make(layer) if layer in layers else self.decoder.block(layer))
        )
        return Cure(decoder, changed, head, steps, products)

    def _as_stored(self, block: Block) -> Block:
        if self._exact:
            return block
        prefix = f"{self.decoder.family.blocks}.{block.layer - 1}."
        return block.loaded({name: self._rounded(prefix + name, part) for name, part in block.present().items()})

    def _rounded(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.to(self.audit.checkpoint.dtype(name)).to(tensor.dtype)

    def _head(self, readout: Readout) -> Unembedding | None:
        """The refitted head with its temperature in its weights, None where the network is read by its own."""
        found, own = readout.unembedding, Unembedding.of(self.decoder)
        if readout.kind == "own" or (found.weight is own.weight and found.scale == own.scale):
            return None
        factor, name = found.scale / own.scale, self.audit.checkpoint.head

        def stored(part: Tensor) -> Tensor:
            return self._rounded(name, part * factor).to(self.decoder.dtype)

        bias = None if found.bias is None else stored(found.bias)
        return dataclasses.replace(own, weight=stored(found.weight), bias=bias)
