"""The report's row of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from peelaudit.records.figures import ClusterSums, Estimate, SplitFigures
from peelaudit.records.quantities import Form, Quantity

__all__ = ["LayerRow", "LayerSigns", "Symptom"]


class Symptom(StrEnum):
    """What is wrong with a layer by its own looks."""

    UNTRAINED = "untrained"
    """None of its matrices can be told from random ones."""
    EXPERT_UNTRAINED = "expert untrained"
    """Of its experts one or more, none of whose matrices can be told from random ones."""
    ROUTER_AT_CHANCE = "router at chance"
    """Its router does no better than with its experts exchanged."""
    ATTENTION_SILENT = "attention silent"
    """Its attention adds next to nothing to the residual stream, or nearly the same to every token, compared with the
    other layers'.
    """
    MLP_SILENT = "MLP silent"
    """Its MLP does, compared with theirs."""
    COARSE = "coarse"
    """Its matrices hold two or three values, or signs times a size, where most layers' hold more."""
    SAME_WEIGHTS = "same weights"
    """Its weights are another layer's, to the last bit."""
    NOISY = "noisy"
    """The loss would fall if what its matrices hold beside their leading directions were less, as it wouldn't with the
    others'.
    """
    MISSCALED = "misscaled"
    """The loss would change with a scale of its matrices as it doesn't with that of the others'."""


@dataclass(frozen=True, slots=True)
class LayerSigns:
    """What a layer's symptoms are told from.

    `attention_rms` and `mlp_rms` are root mean squares of what each adds to the residual stream, beside what it adds to
    every token alike, over *held-out*.
    `spectral_excess` is the most of the block's matrices: how far the largest eigenvalue of W'W is above what random
    entries of the same spread give, in the unit of its law (Tracy and Widom): up to 8, it may be chance.
    `levels` is the most values that the weights of one scale take in any of the matrices: 2 in a binary block, 3 in a
    ternary one, None in others.
    `experts` is how many a mixture's block has, None where it has none. `dead` are those of them, counted from 0, that
    no token of the calibration text is given to, and `random_experts` those none of whose matrices can be told from
    random ones.
    """

    attention_rms: float
    mlp_rms: float
    spectral_excess: float
    levels: int | None = None
    experts: int | None = None
    dead: tuple[int, ...] = ()
    random_experts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerRow:
    """The audit's row for peel depth `layer`: blocks 1 to `layer` alone, read out directly. The last is the
    network's own.

    `gap` is the layer's own: by how much the whole network's held-out loss falls when block `layer` alone is refined,
    every other left as it is, under the network's readout; None where no block was. `depth_gap` is
    `held_out.gap_layers`: trained states minus best reference states, same tokens, same readout.
    `best_schedule` was chosen on *select*; `best_target` is what it fits this block to. `redundancy` is the
    normalised mean squared error (held-out) of skipping the block, `projection_error[i]` that of the best block
    `layer` from the trained input to the trained state after block `layer + i`: the row of the peel map. Errors are
    ratios without unit: 0 is exact, 1 no better than the target's mean. `reading` says the row in plain words.
    `held_out_sums` is what `held_out` was taken from. `weights_sha256` is of block `layer`'s weights in the dtype that
    they were computed in, whatever the file's format.
    """

    layer: int
    readout: str
    fit: SplitFigures
    held_out: SplitFigures
    gap: Annotated[
        Estimate | None,
        Quantity(
            "gap",
            "by how much the network's loss falls when the block alone is refined",
            Form.GAP,
            gated=True,
            needs="an audit with --effort default or thorough",
        ),
    ]
    depth_gap: Annotated[
        Estimate, Quantity("depth gap", "trained states less the best reference's", Form.GAP, gated=True)
    ]
    best_schedule: str
    best_target: int
    redundancy: Annotated[
        Estimate,
        Quantity(
            "redundancy",
            "the error of leaving the block out (0: it does nothing)",
            Form.RATIO,
            column="redund.",
            gated=True,
        ),
    ]
    projection_error: Annotated[
        tuple[Estimate, ...],
        Quantity(
            "next block",
            "the error of this block, refitted, at the next block's job; near 0, the next block is redundant",
            Form.RATIO,
            column="next",
            item=1,
        ),
    ]
    reading: str
    held_out_sums: ClusterSums
    weights_sha256: str
    scale_slope: Annotated[
        Estimate | None,
        Quantity(
            "scale slope",
            "the derivative of the network's loss by the log of a scale of the block's matrices; near 0 where training "
            "has settled it",
            Form.GAP,
            column="slope",
        ),
    ] = None
    """None where no finite gradient reaches it, and in reports of before it was taken."""
    bulk_slope: Annotated[
        Estimate | None,
        Quantity(
            "bulk slope",
            "the same of a scale of the matrices without their leading directions, a sixteenth of all; noise raises it",
            Form.GAP,
            column="bulk",
        ),
    ] = None
    influence: Annotated[
        Estimate | None,
        Quantity(
            "block influence",
            "1 - the mean cosine of the block's input and output; 0 where it turns nothing",
            Form.RATIO,
            column="infl.",
            gated=True,
        ),
    ] = None
    """None in reports of before it was taken."""
    most_load: Annotated[
        Estimate | None,
        Quantity(
            "largest load",
            "the share of the tokens that the most used expert is given",
            Form.RATIO,
            column="most",
            gated=True,
            needs="a mixture of experts",
        ),
    ] = None
    """None in blocks without experts."""
    least_load: Annotated[
        Estimate | None,
        Quantity(
            "least load",
            "the share of the tokens that the least used expert is given",
            Form.RATIO,
            column="least",
            gated=True,
            needs="a mixture of experts",
        ),
    ] = None
    routing_gain: Annotated[
        Estimate | None,
        Quantity(
            "routing gain",
            "by how much more is lost with the experts exchanged, each token's weights as they are; near 0 where the "
            "router doesn't know them",
            Form.GAP,
            column="routing",
            gated=True,
            needs="a mixture of four experts or more",
        ),
    ] = None
    """None in blocks without experts, and in reports of before it was taken."""
    parent_gap: Annotated[
        Estimate | None,
        Quantity(
            "parent gap",
            "by how much the network's loss falls with its parent's block in the place of its own, under its own head",
            Form.GAP,
            column="parent",
            gated=True,
            needs="an audit with --parent",
        ),
    ] = None
    """None where there was no parent. 0 to the last digit where the two blocks are the same."""
    parent_sums: tuple[float, ...] = ()
    """What `parent_gap` was taken from: nats of each held-out cluster. Empty where there was no parent."""
    signs: LayerSigns | None = None
    symptoms: tuple[Symptom, ...] = ()
