"""Figures with intervals, and verdicts on them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["ClusterSums", "Estimate", "SplitFigures", "Verdict"]


class Verdict(StrEnum):
    """The trained network (or its first k layers) against the bounds, same tokens and same readout kind."""

    RED = "red"
    """Ineffective: the trained loss is above YES-0."""
    YELLOW = "yellow"
    """Caution: between YES* and YES-0."""
    GREEN = "green"
    """Effective: at or below YES*. A certificate against these baselines, not a proof of optimality."""
    GREY = "grey"
    """Inconclusive: the interval straddles a line."""


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

    and `verdict` compares `trained_readout_loss` with `yes0` and `bound`.

    Where float references were fitted beside the low-bit ones, `float_bound` is the loss of the best of them and
    `distortion` = bound - float_bound what the bits cost a reference; None elsewhere. What a low-bit network loses to a
    float reference is gap_layers + distortion: what training missed, and the bits.
    """

    trained_loss: Estimate
    trained_readout_loss: Estimate
    yes0: Estimate
    bound: Estimate
    gap_total: Estimate
    gap_head: Estimate
    gap_layers: Estimate
    verdict: Verdict
    float_bound: Estimate | None = None
    distortion: Estimate | None = None


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """A row's held-out losses summed over each cluster, in nats, not per token, so that two reports on the same tokens
    can be compared cluster by cluster. All are [clusters], in the order of `AuditReport.held_out_predictions`.

    `own` is of the trained states under the model's own head, `trained` of the same under the row's readout; `yes0` and
    `bound` are of the reference states.
    """

    own: tuple[float, ...]
    trained: tuple[float, ...]
    yes0: tuple[float, ...]
    bound: tuple[float, ...]
