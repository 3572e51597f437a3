"""How far to go along a direction, by a few looks at a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Probe", "bracketed", "by_parabolas", "least"]

PROBES = 5
"""Looks at the loss along one direction, at most."""
FURTHEST, NEAREST = 4.0, 0.125
"""How far beyond a probe, and short of it, the next may lie."""
HELD_PROBES = 8
"""Looks where weights are rounded: several may be spent on steps too short to move any."""
CLOSE = 1.5
"""The factor from a step that was the best one elsewhere to the next, as long as it helps here too."""
UNSEEN = 2.0
"""How far short of the best step to look where nothing shorter was looked at."""
NARROW = 1.25
"""The factor by which a next step would differ from the best one, below which there is none."""
TOO_FAR = 1.1
"""The same where the next step would be a shorter one: beyond its bottom a loss rises faster than a parabola."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A step along the direction, and the loss there."""

    step: float
    loss: float


def least(probes: Sequence[Probe]) -> Probe:
    """The one with the least loss."""
    return min(probes, key=lambda probe: probe.loss)


def by_parabolas(look: Callable[[float], float], first: float, *, start: float, slope: float) -> list[Probe]:
    """Probes of a smooth loss: the next one at the bottom of the parabola through the last and the slope at 0.

    Args:
        look: the loss after a step.
        first: the first step.
        start: the loss without one.
        slope: of the loss there, below 0.
    """
    found: list[Probe] = []
    step = first
    for _ in range(PROBES):
        found.append(Probe(step, look(step)))
        expected = -slope * step
        shortfall = expected - (start - found[-1].loss)
        factor = expected / (2 * shortfall) if shortfall > 0 else FURTHEST
        factor = min(max(factor, NEAREST), FURTHEST)
        if 0.7 < factor < 1.4:
            break
        step *= factor
    return found


def bracketed(
    look: Callable[[float], float], first: float, *, start: float, unmoved: float, likely: bool = False
) -> list[Probe]:
    """Probes of a loss whose weights are rounded after the step.

    The slope tells nothing of it: a step may move no weight, and the first that moves one may be far beyond where the
    parabola has its bottom. So longer and longer steps, as long as none is worse; then on that side of the best where
    the next step that was looked at is farther away. Near a step that was the best one elsewhere, and helps, weights
    do move: two looks and the start tell where the bottom is.

    Args:
        look: the loss after a step.
        first: the first step.
        start: the loss without one.
        unmoved: by how much a loss differs at most where no weight has moved.
        likely: whether `first` was the best step elsewhere.
    """
    found: list[Probe] = []
    best, step = Probe(0.0, start), first
    furthest, unseen, near = FURTHEST, UNSEEN, False
    for _ in range(HELD_PROBES):
        probe = Probe(step, look(step))
        found.append(probe)
        if probe.loss < best.loss and (best.step or abs(probe.loss - start) > unmoved):
            best = probe
            if likely and len(found) == 1:
                furthest, unseen, near = CLOSE, CLOSE, True
        if near and len(found) > 1 and _at_the_bottom(best, found, start):
            break
        still = max((one.step for one in found if not abs(one.loss - start) > unmoved), default=0.0)
        at = best.step or still
        above = min((one.step for one in found if one.step > at), default=math.inf)
        below = max((one.step for one in found if one.step < at), default=0.0)
        up = min(furthest, math.sqrt(above / at)) if at else NEAREST * above
        down = min(unseen, math.sqrt(at / below) if below else unseen) if best.step else 0.0
        if max(up, down) < NARROW and at:
            break
        step = (at or 1.0) * up if above == math.inf or up >= down else at / down
    return found


def _at_the_bottom(best: Probe, found: Sequence[Probe], start: float) -> bool:
    """Whether the parabola through the start, the best probe and the one next to it has its bottom near the best: no
    other look would gain much.
    """
    beside = min((one for one in found if one.step != best.step), key=lambda one: abs(math.log(one.step / best.step)))
    slopes = [(one.loss - start) / one.step for one in (best, beside)]
    bend = (slopes[1] - slopes[0]) / (beside.step - best.step)
    bottom = (best.step - slopes[0] / bend) / 2 if bend > 0 else math.inf
    return best.step / TOO_FAR < bottom < best.step * NARROW
