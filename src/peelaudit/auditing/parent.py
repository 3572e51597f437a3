"""A network against its parent, another checkpoint of its architecture: what it would gain with one block of that.

These are `diff`'s figures in NEW (`peelaudit.method.diagnosis.swaps`), on all of *held-out*.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from peelaudit.auditing.measurements import ParentLosses
from peelaudit.calibration import Calibration
from peelaudit.checkpoints import Checkpoint
from peelaudit.method.diagnosis.swaps import BASE, Swaps
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.network.counterparts import Counterparts, changed_settings, differing_blocks, otherwise
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.network.weights import check_weights
from peelaudit.progress import Progress
from peelaudit.records import BaselineLosses, CheckpointInfo, Estimate, Parent

__all__ = ["ParentFigures", "parent_figures", "parent_losses", "parent_warnings"]


def parent_losses(
    parent: Checkpoint,
    checkpoint: Checkpoint,
    decoder: Decoder,
    calibration: Calibration,
    store: StateStore,
    progress: Progress,
) -> ParentLosses:
    """What the network loses to its parent, and to itself with each of its blocks.

    Args:
        parent: of the same architecture and vocabulary; it is taken as it is saved, whatever bits the network is held
            to.
        checkpoint: the network's.
        decoder: the network.
        calibration: the tokens.
        store: where states go.
        progress: told of each stage.

    Raises:
        PeelauditError: as `audit_config`.
    """
    check_weights(parent, progress, device=decoder.device)
    theirs, data = decoder.beside(parent), TokenRows.alone(calibration.held_out)
    settings = changed_settings(parent.config, checkpoint.config)
    computed = otherwise(theirs, decoder, data.tokens, progress) if settings else frozenset()
    blocks = differing_blocks(theirs, decoder) | {place for place in computed if 1 <= place <= decoder.n_layers}
    around = {0, decoder.n_layers + 1, decoder.n_layers + 2}
    swaps = Swaps(Counterparts(theirs, decoder, frozenset(blocks | around)), data, store, progress)
    with_theirs = {layer: swaps.new - {layer} for layer in blocks}
    whole, some = swaps.run(with_theirs.values(), np.arange(len(data.tokens)))
    own, nothing = whole[swaps.new].losses, np.zeros(len(data.tokens))
    return ParentLosses(
        parent=whole[BASE].losses,
        difference=own - whole[BASE].losses,
        gains=tuple(
            own - some[with_theirs[layer]].losses if layer in blocks else nothing
            for layer in range(1, decoder.n_layers + 1)
        ),
    )


@dataclass(frozen=True, slots=True)
class ParentFigures:
    """nats/token of *held-out*: the parent's loss, the network's less it, what each of its blocks would gain, [L], and
    the nats of each cluster that this is of; and the layers of which it is above the tolerance, the largest first.
    """

    loss: Estimate
    difference: Estimate
    gaps: tuple[Estimate, ...]
    sums: tuple[tuple[float, ...], ...]
    better: tuple[int, ...]

    def record(self, parent: CheckpointInfo) -> Parent:
        """What the report says of that parent."""
        return Parent(replace(parent, tensors=()), self.loss, self.difference, self.better)


def parent_figures(found: ParentLosses, panel: Panel, tolerance: float) -> ParentFigures:
    """Figures with intervals.

    Args:
        found: of each held-out sequence.
        panel: the sequences.
        tolerance: nats/token that count as none.
    """

    def estimate(losses: Losses) -> Estimate:
        return panel.estimate(_spread(losses, panel), "held_out")

    gaps = tuple(map(estimate, found.gains))
    clear = [layer for layer, gap in enumerate(gaps, 1) if gap.low > tolerance]
    better = tuple(sorted(clear, key=lambda layer: -gaps[layer - 1].value))
    sums = tuple(panel.cluster_sums(_spread(losses, panel), "held_out") for losses in found.gains)
    return ParentFigures(estimate(found.parent), estimate(found.difference), gaps, sums, better)


def parent_warnings(found: ParentFigures | None, baselines: BaselineLosses) -> tuple[str, ...]:
    """What to say of a parent that nothing can be told by."""
    if found is None or found.loss.low <= baselines.unigram.value:
        return ()
    words = (
        f"the parent predicts this text worse ({found.loss.value:.2f}) than token frequencies alone do "
        f"({baselines.unigram.value:.2f}): that no layer loses to its says nothing"
    )
    return (words,)


def _spread(losses: Losses, panel: Panel) -> NDArray[np.float64]:
    """Of *held-out* on the panel."""
    whole = np.zeros(len(panel.index))
    whole[panel.splits["held_out"]] = losses
    return whole
