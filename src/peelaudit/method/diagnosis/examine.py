"""What tells which layer is at fault: each block's looks, slopes and repair, measured once, without a reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from torch import Tensor

from peelaudit.method.diagnosis.influence import influence
from peelaudit.method.diagnosis.slopes import block_slopes
from peelaudit.method.diagnosis.symptoms import signs
from peelaudit.method.refinement.downstream import BlockSlopes, Downstream
from peelaudit.method.refinement.refine import Repair, Repairer, RepairMode
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.network.block import Block
from peelaudit.progress import SILENT, Progress
from peelaudit.records import LayerSigns

__all__ = ["Examination", "Examiner", "RepairLosses"]


@dataclass(frozen=True, slots=True)
class RepairLosses:
    """The repairs of all blocks: `gains` are [L] arrays on the panel of the nats that each saves on *held-out*, zero on
    the other splits; `steps` those that each took; `passes` the cost in forward passes; `low_bit` whether the
    blocks are.
    """

    gains: tuple[Losses, ...]
    steps: tuple[int, ...]
    passes: float
    low_bit: bool


@dataclass(frozen=True, slots=True)
class Examination:
    """What tells which layer is at fault, without a reference. All [L].

    Attributes:
        panel: the sequences of the network's losses: all.
        own: on `panel`, the network's losses under its own head.
        digests: of the blocks' weights.
        signs: what each block shows by itself.
        slopes: on `panel`, of each *held-out* sequence, zero on the other splits; None for a block that no finite
            gradient reaches.
        influences: of each *held-out* sequence.
        repairs: None where none was asked for.
    """

    panel: Panel
    own: Losses
    digests: tuple[str, ...]
    signs: tuple[LayerSigns, ...]
    slopes: tuple[BlockSlopes | None, ...]
    influences: tuple[Losses, ...]
    repairs: RepairLosses | None


class Examiner:
    """Looks at every block of a network.

    Args:
        downstream: the network under its own head.
        states: h_0 … h_L, each [sequences, positions, d_model].
        panel: the sequences of `own`: all.
        own: on `panel`, the network's losses under its own head.
        progress: told of each stage.
    """

    def __init__(
        self,
        downstream: Downstream,
        states: Sequence[Tensor],
        panel: Panel,
        own: Losses,
        progress: Progress = SILENT,
    ) -> None:
        self._down, self._states, self._panel, self._own, self._progress = downstream, states, panel, own, progress
        self._rows = downstream.data.rows.held_out
        self._repairs: RepairLosses | None = None

    def repairs(self, mode: RepairMode | Literal["off"]) -> Iterator[tuple[Repair, float]]:
        """Repair every block alone, the last first; one of them is held at a time.

        Yields:
            each repair, and the held-out nats/token that it gains.

        Raises:
            NonFiniteResult: naming the layer.
        """
        if mode == "off":
            return
        repairer, n_layers = Repairer(self._down, self._states, self._own), self._down.decoder.n_layers
        gains, steps = [np.zeros_like(self._own) for _ in range(n_layers)], [0] * n_layers
        for repair in repairer.run(mode, progress=self._progress):
            gain, steps[repair.layer - 1] = gains[repair.layer - 1], repair.steps
            gain[self._rows] = self._own[self._rows] - repair.losses
            yield repair, self._panel.mean(gain, "held_out")
        self._repairs = RepairLosses(tuple(gains), tuple(steps), repairer.passes, self._down.decoder.low_bit)

    def losses_with(self, block: Block, what: str) -> Losses:
        """[sequences] nats of *held-out* with another block in the place of the one of that layer.

        Raises:
            NonFiniteResult: naming `what`.
        """
        state = self._down.apply(block, self._states[block.layer - 1][self._rows], what)
        return self._down.losses(block.layer, state, self._rows, what)

    def examination(self) -> Examination:
        """What every block shows, and what the repairs gained that were made."""
        looked = [self._look(layer) for layer in range(1, self._down.decoder.n_layers + 1)]
        digests, found = zip(*looked, strict=True)
        influences = tuple(influence(z[self._rows], h[self._rows]) for z, h in pairwise(self._states))
        return Examination(self._panel, self._own, digests, found, self._slopes(), influences, self._repairs)

    def _look(self, layer: int) -> tuple[str, LayerSigns]:
        """A block's digest and signs: it is read once for both."""
        block = self._down.decoder.block(layer)
        return block.digest(), signs(block, self._states[layer - 1], self._rows)

    def _slopes(self) -> tuple[BlockSlopes | None, ...]:
        found = block_slopes(self._down, self._states, self._rows, progress=self._progress)
        return tuple(
            None if one is None else BlockSlopes(self._spread(one.scale), self._spread(one.bulk)) for one in found
        )

    def _spread(self, losses: Losses) -> Losses:
        """Of *held-out* on the panel."""
        whole = np.zeros_like(self._own)
        whole[self._rows] = losses
        return whole
