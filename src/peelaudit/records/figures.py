"""Figures with intervals, and verdicts on them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from peelaudit.records.quantities import Form, Quantity

__all__ = ["ClusterSums", "Estimate", "SplitFigures", "Verdict"]


class Verdict(StrEnum):
    """The trained network (or its first k layers) against the bounds, same tokens and same readout kind."""

    RED = "red"
    """Ineffective: the trained loss is above YES-0, or that of token frequencies, or a layer is untrained or silent."""
    YELLOW = "yellow"
    """Can do better: a reference is better by more than the tolerance."""
    GREEN = "green"
    """Effective: no reference is better by more than the tolerance. A certificate against these baselines, not a proof
    of optimality."""
    GREY = "grey"
    """Inconclusive: the interval straddles the tolerance, or `refined` wasn't among the references."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, `low` and `high`, from a bootstrap over clusters."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SplitFigures:
    """The figures of one network, or of its first k layers, on one split. All in nats/token.

    `bound` and `yes0` are losses of the reference states under the row's readout; `trained_loss` is that of the trained
    states under the model's *own* norm and head, and `trained_readout_loss` is that of the trained states under the
    row's readout, the like-for-like partner of the bounds. So

        gap_total = trained_loss - bound = gap_head + gap_layers
        gap_head = trained_loss - trained_readout_loss
        gap_layers = trained_readout_loss - bound

    and `verdict` compares `trained_readout_loss` with `yes0` and `bound`. `yes0` is None where no block was fitted.

    Where float references were fitted beside the low-bit ones, `float_bound` is the loss of the best of them and
    `distortion` = bound - float_bound what the bits cost a reference; None elsewhere. What a low-bit network loses to a
    float reference is gap_layers + distortion: what training missed, and the bits.
    """

    trained_loss: Annotated[
        Estimate, Quantity("trained loss", "under the model's own norm and head", column=None, gated=True)
    ]
    trained_readout_loss: Annotated[
        Estimate,
        Quantity("trained layers, {readout}", "the trained states' loss", column="trained", part=True, gated=True),
    ]
    yes0: Annotated[
        Estimate | None,
        Quantity("YES-0", "the loss of the reference whose every block is fitted to the last state", gated=True),
    ]
    bound: Annotated[
        Estimate, Quantity("YES* ({best})", "the least loss of all references run", column="bound", gated=True)
    ]
    gap_total: Annotated[
        Estimate,
        Quantity(
            "gap_total = trained loss - YES*", "above 0, a reference does better", Form.GAP, column=None, gated=True
        ),
    ]
    gap_head: Annotated[
        Estimate,
        Quantity(
            "gap_head, the readout's part", "what a refitted head gains", Form.GAP, column=None, part=True, gated=True
        ),
    ]
    gap_layers: Annotated[
        Estimate,
        Quantity(
            "gap_layers, the layers' part",
            "trained states less the best reference's",
            Form.GAP,
            column=None,
            part=True,
            gated=True,
        ),
    ]
    verdict: Verdict
    float_bound: Annotated[
        Estimate | None, Quantity("YES* of float references", "the least loss of those without bits", column=None)
    ] = None
    distortion: Annotated[
        Estimate | None,
        Quantity(
            "distortion, the bits' part of YES*",
            "what the bits cost the best reference",
            Form.GAP,
            column="distort.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """A row's held-out losses summed over each cluster, in nats, not per token, so that two reports on the same tokens
    can be compared cluster by cluster. All are [clusters], in the order of `AuditReport.held_out_predictions`.

    `own` is of the trained states under the model's own head, `trained` of the same under the row's readout; `yes0` and
    `bound` are of the reference states; `yes0` is None where no block was fitted.
    """

    own: tuple[float, ...]
    trained: tuple[float, ...]
    yes0: tuple[float, ...] | None
    bound: tuple[float, ...]
