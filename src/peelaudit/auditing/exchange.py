"""Figures of what parts do in each other's networks: which networks they take, rows with intervals, which stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from peelaudit.errors import NonFiniteResult
from peelaudit.method.diagnosis.apart import apart
from peelaudit.method.diagnosis.swaps import BASE, Outcome, Swaps
from peelaudit.method.statistics.bootstrap import ClusterBootstrap
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.counterparts import Place, Tensors
from peelaudit.records import Estimate
from peelaudit.records.difference import PartRow, Swapped
from peelaudit.settings.audit import AuditConfig

__all__ = ["Exchange", "Figures", "Plan", "apart_weights"]

EVERY_DEPTH = 16
"""Up to so many differing parts the cumulative figure is taken at each, of more at `SOME_DEPTHS`."""
SOME_DEPTHS = 8
FEWEST_COMPARED = 3
"""Parts that differ, for one to be compared with the others."""
KL_SPREAD, WEIGHTS_SPREAD = 0.15, 0.05
"""Of the logarithms of what parts that are changed alike do, and of how much their weights are."""


class Plan:
    """Which networks are made for the figures of each part."""

    def __init__(self, swaps: Swaps, found: Sequence[Place]) -> None:
        self.new = swaps.new
        self.singles = {place: swaps.reduced(place.members) for place in found}
        below: frozenset[int] = frozenset()
        self.so_far: dict[Place, frozenset[int]] = {}
        for place in found:
            below |= self.singles[place]
            self.so_far[place] = below
        self._leave_out()

    def _leave_out(self) -> None:
        """In a deep network the cumulative figure is taken at some depths alone."""
        differing = [place for place, mix in self.singles.items() if mix]
        if len(differing) > EVERY_DEPTH:
            at = np.linspace(0, len(differing) - 1, SOME_DEPTHS).round().astype(int)
            kept = {differing[number] for number in at}
            self.so_far = {place: mix for place, mix in self.so_far.items() if place in kept}

    @property
    def mixes(self) -> tuple[frozenset[int], ...]:
        """All of them."""
        lacking = (self.new - mix for mix in self.singles.values())
        return tuple(dict.fromkeys((*self.singles.values(), *lacking, *self.so_far.values())))


class Figures:
    """Figures with intervals, of nats summed over each of some sequences."""

    def __init__(self, config: AuditConfig, clusters: NDArray[np.int64], predictions: NDArray[np.int64]) -> None:
        self._config, self._names, self._predictions = config, clusters, predictions
        self._bootstrap = ClusterBootstrap(clusters, resamples=config.resamples, seed=config.seed)
        self.sequences, self.clusters = len(clusters), self._bootstrap.clusters

    def of(self, index: NDArray[np.int64]) -> Figures:
        """The same for those sequences alone."""
        return Figures(self._config, self._names[index], self._predictions[index])

    def estimate(self, losses: Losses) -> Estimate:
        """nats/token."""
        try:
            return self._bootstrap.ratio(losses, self._predictions)
        except FloatingPointError as error:
            raise NonFiniteResult(f"the losses of swapped parts: {error}") from error


class Exchange:
    """What networks made of some sequences, as figures.

    Args:
        figures: of these sequences.
        plan: which networks.
        some: what each made of them.
    """

    def __init__(self, figures: Figures, plan: Plan, some: Mapping[frozenset[int], Outcome]) -> None:
        self._figures, self._plan, self._some = figures, plan, some

    def rows(self, tensors: Tensors, computed: frozenset[int]) -> tuple[PartRow, ...]:
        """A row for each part.

        Args:
            tensors: how they differ.
            computed: the places at which other things are computed with the same weights.
        """
        return tuple(self._row(place, tensors, computed) for place in self._plan.singles)

    def _row(self, place: Place, tensors: Tensors, computed: frozenset[int]) -> PartRow:
        some, plan, estimate = self._some, self._plan, self._figures.estimate
        single, so_far = plan.singles[place], plan.so_far.get(place)
        return PartRow(
            part=place.part,
            layer=place.layer,
            same=not single,
            otherwise=bool(place.members & computed),
            weights=tensors.size(place.members),
            in_base=estimate(self._cost(single)),
            kl=estimate(some[single].kl),
            in_new=estimate(some[plan.new].losses - some[plan.new - single].losses),
            so_far=None if so_far is None else estimate(self._cost(so_far)),
        )

    def _cost(self, mix: frozenset[int]) -> Losses:
        """[sequences] nats that a network loses to BASE."""
        return self._some[mix].losses - self._some[BASE].losses

    def swapped(self, of: int) -> Swapped:
        """What single swaps add up to; the sequences are some `of` all."""
        figures, whole = self._figures, self._cost(self._plan.new)
        singles = np.sum([self._cost(mix) for mix in self._plan.singles.values()], axis=0)
        return Swapped(
            sequences=figures.sequences,
            of=of,
            clusters=figures.clusters,
            whole=figures.estimate(whole),
            singles=figures.estimate(singles),
            left_over=figures.estimate(whole - singles),
        )

    def named(self, rows: Sequence[PartRow]) -> tuple[int, ...]:
        """The places of the parts that move BASE's predictions more than the others do, the most first; of one or two
        that differ, all.

        Predictions are what is looked at, as a loss may fall by chance where they are moved at random.
        """
        moved = [self._some[mix].kl for mix in self._plan.singles.values()]
        differing = [place for place, row in enumerate(rows) if row.kl.value > 0]
        if len(differing) < FEWEST_COMPARED:
            return tuple(sorted(differing, key=lambda place: -rows[place].kl.value))
        found = apart([row.kl.value for row in rows], KL_SPREAD)
        others = [place for place in differing if place not in found]
        return tuple(
            place
            for place in found
            if all(self._figures.estimate(moved[place] - moved[other]).low > 0 for other in others)
        )


def apart_weights(rows: Sequence[PartRow]) -> tuple[int, ...]:
    """The places of the blocks whose weights are changed more than the others'."""
    sizes = [0.0 if row.layer is None or row.same else row.weights for row in rows]
    return apart(sizes, WEIGHTS_SPREAD)
