"""What tells which layer is at fault: each block's looks, slopes and repair, measured once, without a reference."""

from __future__ import annotations

from dataclasses import dataclass

from peelaudit.method.diagnosis.downstream import BlockSlopes
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.records import LayerSigns

__all__ = ["Examination", "RepairLosses"]


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
        repairs: None where none was asked for.
    """

    panel: Panel
    own: Losses
    digests: tuple[str, ...]
    signs: tuple[LayerSigns, ...]
    slopes: tuple[BlockSlopes | None, ...]
    repairs: RepairLosses | None
