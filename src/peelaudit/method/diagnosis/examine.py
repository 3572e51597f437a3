"""What tells which layer is at fault: each block's looks, slopes and gap, measured once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
from torch import Tensor

from peelaudit.method.diagnosis.influence import influence
from peelaudit.method.diagnosis.loads import loads
from peelaudit.method.diagnosis.routing import routing_gains
from peelaudit.method.diagnosis.slopes import block_slopes
from peelaudit.method.diagnosis.symptoms import signs
from peelaudit.method.refinement.downstream import BlockSlopes, Downstream
from peelaudit.method.refinement.reach import Reach, likely_first
from peelaudit.method.refinement.refine import Refined, Refiner
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.network.block import Block
from peelaudit.progress import SILENT, Progress
from peelaudit.records import LayerSigns

__all__ = ["Elsewhere", "Examination", "Examiner", "LayerGain", "LayerGains", "layer_gain"]


@dataclass(frozen=True, slots=True)
class LayerGain:
    """What refining one block alone gains.

    Attributes:
        losses: on the panel, the nats that it saves on *held-out*, zero on the other splits.
        on_select: nats/token that it saves on *select*, which chose how far it went.
        steps: natural-gradient steps that it took.
        products: with the Gauss-Newton curvature.
        passes: the cost in forward passes.
        first: the length of the first step; None where none was taken.
    """

    losses: Losses
    on_select: float
    steps: int
    products: int
    passes: float
    first: float | None = None


@dataclass(frozen=True, slots=True)
class LayerGains:
    """What refining each block alone gains.

    Attributes:
        gains: [L] arrays on the panel of the nats that each saves on *held-out*, zero on the other splits.
        on_select: [L] nats/token that each saves on *select*, which chose how far it went.
        steps: natural-gradient steps that each took.
        products: with the Gauss-Newton curvature that each took.
        passes: the cost in forward passes.
        low_bit: whether the blocks are.
        first_step: whether no block could take more than one step.
    """

    gains: tuple[Losses, ...]
    on_select: tuple[float, ...]
    steps: tuple[int, ...]
    products: tuple[int, ...]
    passes: float
    low_bit: bool
    first_step: bool

    @classmethod
    def of(cls, found: Sequence[LayerGain], reach: Reach, *, low_bit: bool) -> LayerGains:
        """All together, of blocks that were refined one after another, the last first."""
        up = found[::-1]
        return cls(
            gains=tuple(one.losses for one in up),
            on_select=tuple(one.on_select for one in up),
            steps=tuple(one.steps for one in up),
            products=tuple(one.products for one in up),
            passes=sum(one.passes for one in up),
            low_bit=low_bit,
            first_step=reach.steps * reach.rounds <= 1 and reach.products == 0,
        )


@dataclass(frozen=True, slots=True)
class Examination:
    """What tells which layer is at fault, without a reference. All [L].

    Attributes:
        panel: the sequences of the network's losses: all.
        losses: on `panel`, the network's under the readout that slopes and gaps were taken with.
        digests: of the blocks' weights.
        signs: what each block shows by itself.
        slopes: on `panel`, of each *held-out* sequence, zero on the other splits; None for a block that no finite
            gradient reaches.
        influences: of each *held-out* sequence.
        loads: [sequences, experts] the share of each *held-out* sequence's tokens that every expert is given; None for
            a block without experts.
        routings: on `panel`, the nats that each router's own choice saves each *held-out* sequence against experts
            exchanged, zero on the other splits; None for a block without, or with too few to tell.
        gains: None where no block was refined.
    """

    panel: Panel
    losses: Losses
    digests: tuple[str, ...]
    signs: tuple[LayerSigns, ...]
    slopes: tuple[BlockSlopes | None, ...]
    influences: tuple[Losses, ...]
    loads: tuple[Losses | None, ...]
    routings: tuple[Losses | None, ...]
    gains: LayerGains | None


class Elsewhere(Protocol):
    """Refines blocks on other machines."""

    def __call__(
        self, layers: Sequence[int], reach: Reach, first: float | None
    ) -> Iterator[tuple[Refined | None, LayerGain]]:
        """As `Refiner.each` these, which begin a run, and what each gains, in this order."""
        ...


def layer_gain(
    refiner: Refiner, refined: Refined, losses: Losses, held_out: slice, since: tuple[float, float]
) -> LayerGain:
    """What a block gains that was refined alone.

    Args:
        refiner: that refined it.
        refined: the block.
        losses: on the panel, the network's under the refiner's readout.
        held_out: its sequences.
        since: the refiner's work before.
    """
    saved = np.zeros_like(losses)
    saved[held_out] = losses[held_out] - refiner.losses(refined, held_out)
    cost = refiner.passes(since)
    return LayerGain(saved, refined.select_gain, refined.steps, refined.products, cost, refined.first)


class Examiner:
    """Looks at every block of a network.

    Args:
        downstream: the network under a readout.
        states: h_0 … h_L, each [sequences, positions, d_model].
        panel: the sequences of `losses`: all.
        losses: on `panel`, the network's under that readout.
        progress: told of each stage.
        plain: the network under its own head, where that isn't the readout: one that was fitted to the states knows
            where a router sends tokens, however wrong that is.
    """

    def __init__(
        self,
        downstream: Downstream,
        states: Sequence[Tensor],
        panel: Panel,
        losses: Losses,
        progress: Progress = SILENT,
        *,
        plain: Downstream | None = None,
    ) -> None:
        self._down, self._states, self._panel, self._losses, self._progress = (
            downstream,
            states,
            panel,
            losses,
            progress,
        )
        self._rows = downstream.data.rows.held_out
        self._plain = downstream if plain is None else plain

    def gaps(
        self,
        refiner: Refiner,
        reach: Reach,
        *,
        found: Sequence[LayerGain] = (),
        elsewhere: Elsewhere | None = None,
    ) -> Iterator[tuple[Refined | None, LayerGain]]:
        """Refine every block alone, the last first; one of them is held at a time.

        Args:
            refiner: of the same network, under the same readout.
            reach: how far.
            found: of the first blocks, which are left out.
            elsewhere: refines all that need not wait for one another.

        Yields:
            each block, and what it gains.

        Raises:
            NonFiniteResult: naming the layer.
        """
        before, firsts = refiner.work, [one.first for one in found]
        for refined in refiner.each(reach, firsts=tuple(firsts), progress=self._progress):
            yield refined, layer_gain(refiner, refined, self._losses, self._rows, before)
            before = refiner.work
            firsts.append(refined.first)
            within, unknown = (len(firsts) - 1) % reach.together > 0, likely_first(firsts) is None
            waiting = within or (reach.together > 1 and unknown)
            if elsewhere is not None and not waiting:
                break
        else:
            return
        self._progress.advance()
        layers = range(self._down.decoder.n_layers - len(firsts), 0, -1)
        if elsewhere is not None and layers:
            for made in elsewhere(layers, reach, likely_first(firsts)):
                yield made
                self._progress.advance()

    def losses_with(self, block: Block, what: str) -> Losses:
        """[sequences] nats of *held-out* with another block in the place of the one of that layer.

        Raises:
            NonFiniteResult: naming `what`.
        """
        state = self._down.apply(block, self._states[block.layer - 1][self._rows], what)
        return self._down.losses(block.layer, state, self._rows, what)

    def examination(self, gains: LayerGains | None = None) -> Examination:
        """What every block shows, and what refining it gained, where that was done."""
        looked = [self._look(layer) for layer in range(1, self._down.decoder.n_layers + 1)]
        digests, found, given, routings = zip(*looked, strict=True)
        influences = tuple(influence(z[self._rows], h[self._rows]) for z, h in pairwise(self._states))
        return Examination(
            self._panel, self._losses, digests, found, self._slopes(), influences, given, routings, gains
        )

    def _look(self, layer: int) -> tuple[str, LayerSigns, Losses | None, Losses | None]:
        """A block's digest, its signs, its experts' loads and its router's gain: it is read once for all."""
        block, inputs = self._down.decoder.block(layer), self._states[layer - 1]
        found, given = signs(block, inputs, self._rows), loads(block, inputs)
        if given is None:
            return block.digest(), found, None, None
        routing = routing_gains(self._plain, block, inputs, self._own, self._rows)
        dead = tuple(int(number) for number in np.flatnonzero(given.sum(axis=0) == 0))
        spread = None if routing is None else self._spread(routing)
        return block.digest(), dataclasses.replace(found, dead=dead), given[self._rows], spread

    @cached_property
    def _own(self) -> Losses:
        """[sequences] nats of *held-out* under the network's own head."""
        return self._plain.losses(len(self._states) - 1, self._states[-1][self._rows], self._rows, "the network")

    def _slopes(self) -> tuple[BlockSlopes | None, ...]:
        found = block_slopes(self._down, self._states, self._rows, progress=self._progress)
        return tuple(
            None if one is None else BlockSlopes(self._spread(one.scale), self._spread(one.bulk)) for one in found
        )

    def _spread(self, losses: Losses) -> Losses:
        """Of *held-out* on the panel."""
        whole = np.zeros_like(self._losses)
        whole[self._rows] = losses
        return whole
