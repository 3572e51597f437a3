"""Plans: how many bits each part's weights are given."""

from __future__ import annotations

from collections.abc import Sequence

from peelaudit.method.bits.trials import Part, Plan

__all__ = ["average", "evenly"]


def average(parts: Sequence[Part], plan: Plan) -> float:
    """Bits of a weight's code."""
    return sum(part.weights * bits for part, bits in zip(parts, plan, strict=True)) / sum(one.weights for one in parts)


def evenly(parts: Sequence[Part], widths: Sequence[int], budget: float) -> Plan:
    """So many bits on average given out without a look at the network: the two widths next to them, the wider one as
    often as there is room for, from the bottom up. All parts have the same where that is one of the widths.

    Args:
        parts: of the network.
        widths: that there are.
        budget: bits of a weight's code on average, no less than the narrowest.
    """
    below = max(width for width in widths if width <= budget)
    above = min((width for width in widths if width > budget), default=below)
    plan, room = [], 0.0
    for part in parts:
        room += part.weights * (budget - below)
        wider = part.weights * (above - below) <= room + 1e-6 * part.weights and above > below
        room -= part.weights * (above - below) * wider
        plan.append(above if wider else below)
    return tuple(plan)
