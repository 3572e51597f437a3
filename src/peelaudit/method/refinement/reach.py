"""How far blocks are moved, and where one's search for the length of its first step begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TOGETHER", "Reach", "likely_first"]

MOST_STEPS = 16
TOGETHER = 8
"""Layers of a run: each one's search for the length of its first step begins at that of the one above it, and a run's
first one's at the length that was found first of all. So runs need not wait for one another.
"""


def likely_first(before: Sequence[float | None]) -> float | None:
    """Where the next layer's search for the length of its first step begins.

    Args:
        before: the lengths of those above it, the last layer's first; None of one that took no step.
    """
    place = len(before)
    run = before[place - (place - 1) % TOGETHER :] if place else ()
    return next((one for one in (*reversed(run), *before) if one is not None), None)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far blocks are moved.

    Attributes:
        steps: natural-gradient ones at most, in a round.
        products: with the Gauss-Newton curvature at most, in a round.
        rounds: of both, at most.
        afresh: whether products are also begun from the blocks as trained, and *select* takes the better end: where
            natural-gradient steps gain little, they may lead away from what the exact curvature finds.
        thinned: one of how many sequences of *select* a look takes the loss of, where that leaves `LEAST_LOOKED` of
            its tokens: in a deep network most of the work is looks, and no gain is reported of them.
        curved: one of how many sequences of *fit* the Gauss-Newton curvature is taken of, where that leaves
            `LEAST_CURVED` of its tokens; the gradient is always that of all.
    """

    steps: int = MOST_STEPS
    products: int = 0
    rounds: int = 1
    afresh: bool = False
    thinned: int = 1
    curved: int = 1

    @property
    def together(self) -> int:
        """Layers of a run, see `likely_first`: where looks aren't thinned each layer's search is its own."""
        return TOGETHER if self.thinned > 1 else 1
