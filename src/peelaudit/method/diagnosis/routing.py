"""Does a mixture's router know its experts? Its own choice against the same choices of experts that are exchanged.

Each token keeps its weights and its place beside the tokens that it shares an expert with; only which expert that is
changes, by a permutation that leaves none in its place. A router that was trained with its experts does better than any
of these. One that was drawn anew, or comes from elsewhere, knows none of them: its own assignment is one of many that
are alike, and has the least loss of ten by chance once in ten times. So the null is the network's own, exact for any
router whose rows could be exchanged, and needs no guess of a spread.

Every assignment is run on a share of *held-out*, so that all of them together cost as much as one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from peelaudit.method.refinement.downstream import Downstream
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.network.block import Block

__all__ = ["ASSIGNMENTS", "at_chance", "most_lost", "routing_gains"]

ASSIGNMENTS = 9
"""Of other experts, each on its share of *held-out*. With four experts there are no more."""
_FEWEST_EXPERTS = 4
MOST_AT_CHANCE = 0.1
"""Share of the layers that may be at chance and be named, or one: what more have in common is the network's."""
LEAST_LOSS = 0.3
"""Share of its mean gain that a router loses by its own choice on some ninth of the text at least: less may be that
ninth's chance. Healthy ones lost up to 0.21 of it, of 48 that were redrawn 46 more."""
STANDS_OUT = 2.0
"""How many times as much one of more loses by its own choice as any other. With the first router of a mixture of four
blocks redrawn, those of one or two of the others were at chance too: 0.72 and 0.77 nats beside 0.05 and 0.16."""


def routing_gains(down: Downstream, block: Block, inputs: Tensor, losses: Losses, rows: slice) -> Losses | None:
    """[sequences] nats that the router's own choice saves each of the sequences `rows` against experts exchanged.

    None for a block without experts, with too few of them, or for fewer sequences than there are assignments.

    Args:
        down: the network under its own head.
        block: as trained.
        inputs: of the block, [sequences, positions, d_model], all of the calibration's.
        losses: of the sequences `rows`, nats.
        rows: the sequences to look at.

    Raises:
        NonFiniteResult: a state or a loss became NaN or Inf.
    """
    if block.experts < _FEWEST_EXPERTS or rows.stop - rows.start < ASSIGNMENTS:
        return None
    gains = np.zeros(rows.stop - rows.start)
    for share, order in enumerate(_assignments(block.experts, block.layer)):
        part = slice(rows.start + share, rows.stop, ASSIGNMENTS)
        what = f"layer {block.layer} with its experts exchanged"
        state = down.apply(block.exchanged(order), inputs[part], what)
        gains[share::ASSIGNMENTS] = down.losses(block.layer, state, part, what) - losses[share::ASSIGNMENTS]
    return gains


def _assignments(experts: int, seed: int) -> list[tuple[int, ...]]:
    """Orders of the experts, all different, in which none is in its own place."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < ASSIGNMENTS:
        order = tuple(torch.randperm(experts, generator=generator).tolist())
        if all(place != expert for place, expert in enumerate(order)):
            found[order] = None
    return list(found)


def most_lost(panel: Panel, gains: Sequence[Losses | None]) -> tuple[float | None, ...]:
    """What each layer's router loses by its own choice on the ninth of *held-out* where that is most, nats/token; below
    0 where it gains on all. None for a layer that has none.

    Args:
        panel: of the network's losses.
        gains: of each layer, on the panel; None where it has none.
    """
    rows = panel.splits["held_out"]
    counts = panel.predictions[rows]
    shares = [slice(share, None, ASSIGNMENTS) for share in range(ASSIGNMENTS)]
    return tuple(
        None
        if gain is None
        else -min(float(gain[rows][share].sum()) / max(1, int(counts[share].sum())) for share in shares)
        for gain in gains
    )


def at_chance(panel: Panel, gains: Sequence[Losses | None], barred: Collection[int] = ()) -> tuple[int, ...]:
    """The layers, 1 … L, whose router does no better than one of the other assignments.

    Of many such layers only one that stands out: what is above a block that sends tokens anywhere, isn't given what it
    was trained on. None where many are alike.

    Args:
        panel: of the network's losses.
        gains: of each layer, on the panel; None where it has none.
        barred: layers whose routing doesn't matter: what they route, or route to, is damaged.
    """
    lost = {
        layer: most
        for layer, (gain, most) in enumerate(zip(gains, most_lost(panel, gains), strict=True), 1)
        if gain is not None and most is not None and layer not in barred
        if most >= LEAST_LOSS * max(0.0, panel.mean(gain, "held_out"))
    }
    found = sorted(lost, key=lost.__getitem__, reverse=True)
    if len(found) <= max(1, MOST_AT_CHANCE * len(gains)):
        return tuple(sorted(found))
    first, second, *_ = (lost[layer] for layer in found)
    return tuple(found[:1]) if first > STANDS_OUT * second else ()
