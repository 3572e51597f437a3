"""Which of some sizes are apart from the others: on a log scale, by the median distance from their median."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["apart"]

LEVEL = 3.0
"""How many times the others' spread a size has to be above their median."""
_SIGMAS = 1.4826
"""Standard deviations of a normal law in its median size."""
_FEWEST = 3


def apart(sizes: Sequence[float], least: float) -> tuple[int, ...]:
    """The places of those that are larger than the others, the largest first; none of fewer than three.

    Args:
        sizes: none below 0; those that are 0 don't count.
        least: a spread of their logarithms that is expected anyhow.
    """
    values = np.array(sizes, dtype=np.float64)
    counted = np.flatnonzero(values > 0)
    if len(counted) < _FEWEST:
        return ()
    logs = np.log(values[counted])
    above = logs - np.median(logs)
    spread = _SIGMAS * float(np.median(np.abs(above))) + least
    found = counted[above > LEVEL * spread]
    return tuple(int(place) for place in sorted(found, key=lambda place: -values[place]))
