"""Bounds, gaps and verdicts from losses, on numbers alone (docs/method.md, Bounds; docs/method.md, Verdicts).

A loss here is an array, [sequences], of nats summed over each sequence's predictions, on a `Panel`. Selection is on
*select*: the bound on *held-out* is the loss of the reference that is best on *select*, so it is not biased low by the
choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peelaudit.method.references.schedules import Schedule
from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.method.statistics.panel import Losses, Panel, SplitName, no_loss
from peelaudit.records import Estimate, SplitFigures, Verdict, YesBound

__all__ = ["Reference", "best", "figures", "paper_verdict", "verdict", "yes_bounds"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference network's losses, under the row's readout. `targets` are those of its blocks, as many as it has."""

    name: str
    targets: tuple[int, ...]
    losses: Losses


def best(panel: Panel, references: Sequence[Reference], split: SplitName) -> Reference:
    """The reference of least mean loss on a split; the first of equals."""
    return min(references, key=lambda reference: panel.mean(reference.losses, split))


def figures(
    panel: Panel,
    split: SplitName,
    *,
    own: Losses,
    trained: Losses,
    yes0: Losses | None,
    bound: Losses,
    tolerance: float = 0.0,
    float_bound: Losses | None = None,
    moved: bool = False,
) -> SplitFigures:
    """One network's figures on one split.

    Args:
        panel: of the losses.
        split: which split.
        own: of the trained states under the model's own head.
        trained: of the trained states under the row's readout.
        yes0: of the schedule `final`, under the row's readout; None where it wasn't run.
        bound: of the reference chosen for this split, under the row's readout.
        tolerance: see `verdict`.
        float_bound: of the float reference chosen for this split, where there are float ones beside.
        moved: whether `bound` is of the network with moved blocks (`no_loss`).
    """
    excess0 = None if yes0 is None else panel.estimate(trained - yes0, split)
    excess = panel.estimate(trained - bound, split)
    excess = no_loss(excess) if moved else excess
    return SplitFigures(
        trained_loss=panel.estimate(own, split),
        trained_readout_loss=panel.estimate(trained, split),
        yes0=None if yes0 is None else panel.estimate(yes0, split),
        bound=panel.estimate(bound, split),
        gap_total=panel.estimate(own - bound, split),
        gap_head=panel.estimate(own - trained, split),
        gap_layers=excess,
        verdict=verdict(excess0, excess, tolerance),
        float_bound=None if float_bound is None else panel.estimate(float_bound, split),
        distortion=None if float_bound is None else panel.estimate(bound - float_bound, split),
    )


def verdict(over_yes0: Estimate | None, over_bound: Estimate, tolerance: float = 0.0) -> Verdict:
    """The verdict that the intervals allow.

    Args:
        over_yes0: trained loss minus YES-0, same tokens, same readout; None where there is no YES-0.
        over_bound: trained loss minus the best bound.
        tolerance: nats/token of `over_bound` that count as none.
    """
    tolerance = max(tolerance, RESOLUTION)
    if over_yes0 is not None and over_yes0.low > RESOLUTION:
        return Verdict.RED
    if over_bound.low > tolerance:
        return Verdict.YELLOW
    return Verdict.GREEN if over_bound.high <= tolerance else Verdict.GREY


def paper_verdict(trained: float, yes0: float, bound: float) -> Verdict:
    """The paper's: point values on fit tokens, the model's own head against refitted ones."""
    if trained - yes0 > RESOLUTION:
        return Verdict.RED
    return Verdict.GREEN if trained - bound <= RESOLUTION else Verdict.YELLOW


def yes_bounds(panel: Panel, schedules: Sequence[Schedule], losses: Sequence[Losses]) -> tuple[YesBound, ...]:
    """YES-0, YES-1, … : for each k the best of the staircases run with at most k waypoints.

    Args:
        panel: of the losses.
        schedules: those run; what is no staircase is left out.
        losses: of each, under the network row's readout.
    """
    staircases = [
        (len(schedule.waypoints), Reference(schedule.name, schedule.targets, loss))
        for schedule, loss in zip(schedules, losses, strict=True)
        if schedule.waypoints is not None
    ]
    bounds = []
    for most in sorted({count for count, _ in staircases}):
        allowed = [reference for count, reference in staircases if count <= most]
        chosen = best(panel, allowed, "select")
        bounds.append(
            YesBound(
                waypoints=most,
                schedule=chosen.name,
                fit=panel.mean(best(panel, allowed, "fit").losses, "fit"),
                select=panel.mean(chosen.losses, "select"),
                held_out=panel.estimate(chosen.losses, "held_out"),
            )
        )
    return tuple(bounds)
