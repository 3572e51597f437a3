"""How far some blocks go along a direction, by looks at the loss of some sequences.

With a large vocabulary most of a look would be the head. The looks are then at losses near those of the trained states
(`peelaudit.method.readouts.shortlist`), and the best of them alone is taken in full. Where that is another one, as far
from a damaged block's states, all looks are in full from there on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.changes import Changes
from peelaudit.method.linalg.descent import Direction, best_probe
from peelaudit.method.linalg.line_search import Probe, bracketed, least
from peelaudit.method.readouts.shortlist import Nearby
from peelaudit.method.refinement.changed_network import ChangedNetwork, Layers
from peelaudit.method.statistics.bootstrap import RESOLUTION

__all__ = ["Moving"]

APART = 1 / 4
"""The share of what a step gains by nearby losses by which the loss in full may be another one."""


@dataclass(slots=True)
class Moving:
    """The loss of a network as some of its blocks move from the trained ones, as `natural_steps` wants it.

    Attributes:
        network: it.
        layers: the blocks.
        looked: the sequences that are looked at.
        directed: what has the directions.
        unmoved: their loss as trained, nats/token.
        nearby: what tells their losses near the trained states, as long as it is believed.
        level: a loss in full, and how far it was above the nearby one; None before anything was looked at.
    """

    network: ChangedNetwork
    layers: Layers
    looked: slice
    directed: Callable[[Layers, Changes], Direction]
    unmoved: float
    nearby: Nearby | None
    level: tuple[float, float] | None = None

    def direction(self, changes: Changes) -> Direction:
        """By *fit*."""
        return self.directed(self.layers, changes)

    def search(
        self, at: Callable[[float], Changes], first: float, *, start: float, slope: float, likely: bool
    ) -> Probe:
        """The best look."""
        best = partial(self._best, first=first, start=start, slope=slope, likely=likely)
        if self.nearby is None:
            return best(lambda step: self.network.loss(self.layers, at(step), self.looked))
        glances = _Glances(self, self.nearby, at, self._lift(self.nearby, start, at))
        near = best(glances)
        found = Probe(near.step, glances.in_full())
        alike = abs(found.loss - near.loss) <= APART * max(start - near.loss, RESOLUTION)
        if alike or start <= min(near.loss, found.loss) < math.inf:
            self.level = found.loss, found.loss - near.loss + glances.lift
            return found
        self.nearby = None

        def look(step: float) -> float:
            return found.loss if step == found.step else self.network.loss(self.layers, at(step), self.looked)

        return least((found, best(look, first=near.step, likely=True)))

    def _lift(self, nearby: Nearby, start: float, at: Callable[[float], Changes]) -> float:
        """How far the loss in full is above the nearby one where a search begins; NaN where that can't be told."""
        if self.level is not None and self.level[0] == start:
            return self.level[1]
        if start == self.unmoved:
            return start - self.told(nearby, nearby.state)
        try:
            return start - self.told(nearby, self.network.final(self.layers, at(0.0), self.looked))
        except NonFiniteResult:
            return math.nan

    def told(self, nearby: Nearby, final: Tensor) -> float:
        """The nearby loss of these last states, nats/token."""
        return float(nearby.losses(final).sum()) / self.network.predictions(self.looked)

    def _best(self, look: Callable[[float], float], first: float, *, start: float, slope: float, likely: bool) -> Probe:
        if self.network.low_bit(self.layers):
            return least(bracketed(look, first, start=start, unmoved=RESOLUTION, likely=likely))
        return best_probe(look, first, start=start, slope=slope)

    def kept(self, direction: Changes) -> Changes:
        """In the store."""
        return self.network.directed(direction)

    def stepped(self, changes: Changes, step: Changes) -> Changes:
        """In their own place."""
        return self.network.stepped(changes, step)


class _Glances:
    """Looks along a direction at nearby losses.

    Args:
        moving: whose blocks move.
        nearby: what tells them.
        at: the changes after a step.
        lift: what is added to each.
    """

    def __init__(self, moving: Moving, nearby: Nearby, at: Callable[[float], Changes], lift: float) -> None:
        self.lift = lift
        self._moving, self._nearby, self._at = moving, nearby, at
        self._least = math.inf
        self._best: Tensor | None = None
        """The last states of the best look."""

    def __call__(self, step: float) -> float:
        moving = self._moving
        try:
            final = moving.network.final(moving.layers, self._at(step), moving.looked)
        except NonFiniteResult:
            return math.inf
        loss = self.lift + moving.told(self._nearby, final)
        if not math.isfinite(loss):
            return math.inf
        if loss < self._least:
            self._least, self._best = loss, final
        return loss

    def in_full(self) -> float:
        """The loss of the best look, nats/token; infinite where nothing is finite."""
        try:
            return math.inf if self._best is None else self._moving.network.loss_of(self._best, self._moving.looked)
        except NonFiniteResult:
            return math.inf
