"""The cheapest choice of one option for each of several parts within a budget, by dynamic programming.

    minimise  Σ cost[part, option]   such that  Σ size[part] · width[option] ≤ budget

Every part has the narrowest width at least. The table has a column for each total that can be reached beyond that, in
units of the sizes' greatest common divisor; where that were too many, a unit is more, and what an option takes is
rounded up to whole ones: a plan never exceeds the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["cheapest"]

MOST_UNITS = 1 << 16
"""Columns of the table at most, but for one."""


def cheapest(
    sizes: Sequence[int], widths: Sequence[int], costs: NDArray[np.float64], budget: int
) -> tuple[int, ...] | None:
    """Which option each part takes, by its place in `widths`; None where nothing is within the budget.

    Args:
        sizes: [parts] how much of what a width is a part takes: its weights.
        widths: [options] of each, its bits.
        costs: [parts, options] what that costs.
        budget: the most that all take together.
    """
    least = min(widths)
    room = budget - least * sum(sizes)
    if room < 0:
        return None
    unit = math.gcd(*sizes)
    unit *= max(1, -(-room // (unit * MOST_UNITS)))
    columns = room // unit + 1
    best, choices = np.zeros(columns), []
    for size, cost in zip(sizes, costs, strict=True):
        each = np.full((len(widths), columns), np.inf)
        for option, width in enumerate(widths):
            taken = _units(size, width - least, unit)
            if taken < columns:
                each[option, taken:] = best[: columns - taken] + cost[option]
        choices.append(each.argmin(axis=0).astype(np.int8))
        best = each.min(axis=0)
    left, found = columns - 1, []
    for size, choice in zip(reversed(sizes), reversed(choices), strict=True):
        option = int(choice[left])
        found.append(option)
        left -= _units(size, widths[option] - least, unit)
    return tuple(reversed(found))


def _units(size: int, bits: int, unit: int) -> int:
    """Of the table, that so many bits more for each of a part's weights take."""
    return -(-size * bits // unit)
