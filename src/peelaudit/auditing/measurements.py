"""What the model was measured to be: losses and squared errors per sequence, of which `conclude` makes figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from peelaudit.method.diagnosis.examine import Examination
from peelaudit.method.references.peel import ProjectionRow
from peelaudit.method.references.schedules import Schedule
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.records import BlockFit

__all__ = [
    "Measurements",
    "NodeLosses",
    "ParentLosses",
    "ReferenceLosses",
    "RefinedLosses",
    "ScheduleLosses",
    "TrainedLosses",
]


@dataclass(frozen=True, slots=True)
class NodeLosses:
    """A reference cut after the depth that its prefix is of.

    Attributes:
        prefix: its blocks' targets.
        readout: its losses, under the network's readout at depth L, on the whole panel; under the depths' below.
        own: under the own head, at depth L alone.
        blocks: how they were fitted.
    """

    prefix: tuple[int, ...]
    readout: Losses
    own: Losses | None
    blocks: tuple[BlockFit, ...]


@dataclass(frozen=True, slots=True)
class ScheduleLosses:
    """A schedule that was run: its losses on the whole panel under the own head and the network's readout."""

    schedule: Schedule
    own: Losses
    readout: Losses
    blocks: tuple[BlockFit, ...]


@dataclass(frozen=True, slots=True)
class TrainedLosses:
    """The trained network's, cut after each depth 1 … L.

    Attributes:
        panel: the sequences of the network's losses: all.
        depth_panel: those of the depths below L: all but most of *fit*; of many words, some of their tokens.
        own: [L] the trained states' losses under the own head; the last is on `panel`.
        readout: [L] the same under the depths' readout, the last under the network's.
        deviations: [L] ‖h_k - mean(h_k)‖² of each held-out sequence.
        unigram: on `panel`, the losses of guessing by the fit tokens' frequencies.
        temperature: that the own head's logits want.
        tempered: on `panel`, zero but for *held-out*, the losses under the own head with it.
    """

    panel: Panel
    depth_panel: Panel
    own: tuple[Losses, ...]
    readout: tuple[Losses, ...]
    deviations: tuple[Losses, ...]
    unigram: Losses
    temperature: float
    tempered: Losses


@dataclass(frozen=True, slots=True)
class RefinedLosses:
    """The reference `refined`.

    Attributes:
        own: on the whole panel, its losses under the own head.
        readout: the same under the network's readout.
        half: on the panel, zero but for *held-out*, its losses under that readout if half of *fit* is used; None where
            that wasn't asked for.
        steps: natural-gradient steps that it took.
        products: with the Gauss-Newton curvature.
        passes: the cost, in forward passes.
        held: whether its weights were held to low-bit sets.
    """

    own: Losses
    readout: Losses
    half: Losses | None
    steps: int
    products: int
    passes: float
    held: bool


@dataclass(frozen=True, slots=True)
class ReferenceLosses:
    """Those of the reference networks.

    Attributes:
        peel_map: a row for each layer.
        schedules: in the order they were asked for.
        searched: how many staircases were compared by estimate.
        nodes: losses of the reference states below depth L, under the depths' readout, by prefix.
        float_nodes: the same of references without bits, by every prefix down to the whole schedules; None where
            they weren't asked for or the network is float.
    """

    peel_map: tuple[ProjectionRow, ...]
    schedules: tuple[ScheduleLosses, ...]
    searched: int
    nodes: Mapping[tuple[int, ...], Losses]
    float_nodes: Mapping[tuple[int, ...], Losses] | None

    @property
    def unknowns(self) -> int:
        """Of a block's regression, per output; 0 where none was done."""
        fitted = (fit.unknowns or 0 for one in self.schedules for fit in one.blocks)
        return max((*fitted, *(row.unknowns for row in self.peel_map)))


@dataclass(frozen=True, slots=True)
class ParentLosses:
    """Against another checkpoint, all of each *held-out* sequence, under each network's own head.

    Attributes:
        parent: the parent's losses.
        difference: the network's less them.
        gains: [L] what the network saves with the parent's block in the place of its own.
    """

    parent: Losses
    difference: Losses
    gains: tuple[Losses, ...]


@dataclass(frozen=True, slots=True)
class Measurements:
    """All that a report is concluded from."""

    trained: TrainedLosses
    references: ReferenceLosses
    refined: RefinedLosses | None
    examined: Examination
    estimated: Losses | None = None
    """On the panel, zero but for *held-out*: what refining all blocks, as floats, is estimated to gain."""
    low_bit: bool = False
    """Whether the network's weights are held to sets of few values."""
    parent: ParentLosses | None = None
    """None where it is held against no other checkpoint."""
