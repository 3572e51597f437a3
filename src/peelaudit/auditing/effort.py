"""The one dial of how much is computed, and what each of its settings means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from peelaudit.method.references.schedules import SchedulePlan
from peelaudit.method.refinement.reach import Reach
from peelaudit.settings.audit import DEFAULT_SCHEDULES, AuditConfig, Effort

__all__ = ["Extent", "expected_passes", "extent", "mapped"]

FEW_LAYERS = 8
"""Up to so many, each block alone is refined as far as all are, and these until they stall; beyond, a block alone by
one step and all by four, for a step of all costs two passes or more, in low-bit networks the rounding too."""
NEAR = 4
"""How far beyond each block the peel map goes then: the search of `default` needs the next state alone, and a map of
all pairs of 30 layers takes as long as their references."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is computed.

    Attributes:
        schedules: the references.
        whole: how far all blocks are refined.
        alone: how far each block alone is; None where none is.
        half: whether all blocks are refined with half the fit tokens as well.
        estimate: whether what refining all blocks gains is estimated.
        map_reach: how far beyond each block the peel map goes; all the way if None.
        depth_passes: forward passes over the calibration tokens that reading out all depths of the network and of one
            reference may cost: where it would be more, not every token's loss is taken.
    """

    schedules: tuple[str, ...]
    whole: Reach
    alone: Reach | None
    half: bool
    estimate: bool = False
    map_reach: int | None = None
    depth_passes: float = 1.0


def extent(config: AuditConfig, n_layers: int) -> Extent:
    """What the settings ask for, of a network with so many layers."""
    asked = config.schedules != DEFAULT_SCHEDULES
    few = n_layers <= FEW_LAYERS
    default = Reach(products=6, curved=4) if few else Reach(steps=4, products=3, thinned=4, curved=4)
    far = Reach(products=24, rounds=3, afresh=True)
    extents: Mapping[Effort, Extent] = MappingProxyType(
        {
            "quick": Extent(("direct",), default, None, half=False, estimate=True, map_reach=0, depth_passes=0.25),
            "default": Extent(
                DEFAULT_SCHEDULES,
                default,
                Reach(products=3, curved=4) if few else Reach(steps=1, thinned=4),
                half=True,
                map_reach=None if few else NEAR,
            ),
            "thorough": Extent(("refined", "all") if few else DEFAULT_SCHEDULES, far, far, half=True),
        }
    )
    found = extents[config.effort]
    return replace(found, schedules=config.schedules) if asked else found


def mapped(wanted: Extent, plan: SchedulePlan, n_layers: int) -> Extent:
    """The same with a peel map that goes as far as the longest segment that a search may choose."""
    if wanted.map_reach is None:
        return wanted
    return replace(wanted, map_reach=max([wanted.map_reach, *(n_layers - 1 - size for size in plan.searches)]))


def expected_passes(wanted: Extent, plan: SchedulePlan, n_layers: int, head_share: float) -> float | None:
    """About how many forward passes over the calibration tokens an audit computes: right to a half either way.

    A reference's head is refitted and read by four or five passes of the head. Typical of networks of 4 to 30 layers
    whose blocks are a few steps from where these end (docs/method.md, Effort). None where blocks are refined until
    nothing is left to gain, which nobody can tell before.
    """
    reaches = [reach for reach, used in ((wanted.whole, plan.refined), (wanted.alone, True)) if used and reach]
    if any(reach.rounds > 1 for reach in reaches):
        return None
    short = wanted.whole.thinned > 1
    passes = 3.0 + (1.3 + 3.5 * head_share) * (len(plan.schedules) + len(plan.searches) - 1)
    if wanted.estimate:
        passes += 3.0
    if plan.refined:
        passes += (4.5 if short else 15.0) * (1 + wanted.half)
    if wanted.alone is not None:
        passes += 3.0 * head_share + (0.2 + 0.4 * head_share if short else 8.0) * n_layers
    return passes
