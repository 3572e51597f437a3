"""By their losses: steps out of line, jumps, losses that go back."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from peelaudit.errors import ReportError
from peelaudit.method.statistics.bootstrap import ClusterBootstrap
from peelaudit.records import AuditReport, Estimate
from peelaudit.reports.integrity.finding import Defect, Finding, Step, of_steps
from peelaudit.reports.pairing import bootstrap_of, check_rows

__all__ = ["FAR", "astray"]

FAR = 4.0
"""So many times its surroundings' moves is a move that is named."""

_AROUND = 2
"""Moves on either side that a move is compared with."""


def astray(series: Sequence[Step], tolerance: float) -> Iterator[Finding]:
    """Where a run is not on its way. `tolerance` is in nats/token."""
    sound = [item for item in series if _is_sound(item[1], series[0][1])]
    try:
        draws = bootstrap_of(sound[0][1]) if len(sound) > 1 else None
    except ReportError:
        draws = None
    if draws is None:
        return
    run = _Run(sound, tolerance, draws)
    off = list(run.out_of_line())
    yield from off
    named = {finding.steps[1] for finding in off}
    yield from _Run([item for item in sound if item[0] not in named], tolerance, draws).jumps()
    yield from run.rises()


def _is_sound(report: AuditReport, first: AuditReport) -> bool:
    """Whether its sums can be held against those of the first: gating and comparing say of others what is wrong."""
    try:
        check_rows(report)
    except ReportError:
        return False
    finite = all(math.isfinite(loss) for row in report.layers for loss in row.held_out_sums.own)
    return finite and report.held_out_predictions == first.held_out_predictions


class _Run:
    """A series by its profiles.

    Args:
        series: sound reports of one run.
        tolerance: nats/token that count as nothing.
        draws: of the held-out clusters.
    """

    def __init__(self, series: Sequence[Step], tolerance: float, draws: ClusterBootstrap) -> None:
        self.series, self.tolerance, self._draws = series, tolerance, draws
        self._counts = np.array(series[0][1].held_out_predictions, dtype=np.float64)
        self._profiles = [_profile(report) for _, report in series]
        self._moved = [self._distance(index, index + 1) for index in range(len(series) - 1)]
        self._losses = [float(profile[-1].sum() / self._counts.sum()) for profile in self._profiles]

    def _distance(self, first: int, second: int) -> float:
        """Between two steps, nats/token."""
        with np.errstate(over="ignore"):
            squares = ((self._profiles[second] - self._profiles[first]) / self._counts) ** 2
            return math.sqrt(float(np.average(squares.mean(axis=0), weights=self._counts)))

    def out_of_line(self) -> Iterator[Finding]:
        """Steps that are far from both neighbours, which are near each other."""
        for index in range(1, len(self.series) - 1):
            away = min(self._moved[index - 1], self._moved[index])
            others = self._around(index - 1, index)
            usual = max(self._distance(index - 1, index + 1), statistics.median(others) if others else 0.0)
            if away > self.tolerance and away > FAR * usual:
                steps = [self.series[i] for i in (index - 1, index, index + 1)]
                yield of_steps(Defect.OUT_OF_LINE, steps, distance=away, times=_times(away, usual))

    def jumps(self) -> Iterator[Finding]:
        """Moves that are larger than all around them, the time that they took allowed for, and gain nothing."""
        for index, move in enumerate(self._moved):
            others = [scaled for other in self._nearest(index, index) if (scaled := self._scaled(other, index))]
            falls = self._losses[index] - self._losses[index + 1] > self.tolerance
            if len(others) > 1 and not falls and move > max(self.tolerance, FAR * max(others)):
                steps = self.series[index : index + 2]
                yield of_steps(Defect.JUMP, steps, distance=move, times=_times(move, max(others)))

    def _around(self, first: int, last: int) -> list[float]:
        return [self._moved[index] for index in self._nearest(first, last)]

    def _nearest(self, first: int, last: int) -> list[int]:
        """The moves before and after those of these indices."""
        before = range(max(0, first - _AROUND), first)
        return [*before, *range(last + 1, min(len(self._moved), last + 1 + _AROUND))]

    def _scaled(self, other: int, index: int) -> float:
        """Another move, as far as it would have been in as many steps as this one, if these are more."""
        taken = [self.series[i + 1][0] - self.series[i][0] for i in (index, other)]
        return self._moved[other] * max(1.0, taken[0] / taken[1])

    def rises(self) -> Iterator[Finding]:
        """Steps on end that are above the best before them."""
        best, above = 0, list[int]()
        for index in range(1, len(self.series)):
            if self._rise(best, index) is not None:
                above.append(index)
                continue
            yield from self._back(best, above)
            above = []
            if self._losses[index] < self._losses[best]:
                best = index
        yield from self._back(best, above)

    def _rise(self, first: int, second: int) -> Estimate | None:
        """How far the loss of the second step is above that of the first; None where it isn't for certain."""
        if not self._losses[second] - self._losses[first] > self.tolerance:
            return None
        moved = self._profiles[second][-1] - self._profiles[first][-1]
        try:
            rise = self._draws.ratio(moved, self._counts)
        except FloatingPointError:  # finite losses so large that they don't add up
            return None
        return rise if rise.low > self.tolerance else None

    def _back(self, best: int, above: Sequence[int]) -> Iterator[Finding]:
        """What is above the best before it, if that is more than the run's own noise."""
        if not above:
            return
        highest = max(above, key=lambda index: self._losses[index])
        rise = self._rise(best, highest)
        if rise is not None and rise.value > 2 * FAR * self._noise(above[0] - 1, above[-1]):
            yield of_steps(
                Defect.LOSS_BACK,
                [self.series[index] for index in (best, *above)],
                rise=rise,
                highest=self.series[highest][0],
                exchanged=self._would_fall(best, above[-1]),
            )

    def _noise(self, first: int, last: int) -> float:
        """By how much the loss rises where it does, from one step to the next, outside of these; nats/token."""
        changes = [after - before for before, after in pairwise(self._losses)]
        rises = [change for i, change in enumerate(changes) if change > 0 and not first <= i <= last]
        return statistics.median(rises) if rises else 0.0

    def _would_fall(self, first: int, last: int) -> bool:
        """Whether the losses around these two steps would fall throughout if they changed places."""
        order = list(range(max(0, first - 1), min(len(self.series), last + 2)))
        if len(order) == last - first + 1:
            return False
        places = order.index(first), order.index(last)
        order[places[0]], order[places[1]] = last, first
        return all(self._rise(after, before) is not None for before, after in pairwise(order))


def _profile(report: AuditReport) -> NDArray[np.float64]:
    """[layers, clusters] held-out losses under the model's own head, summed over each cluster, nats."""
    return np.array([row.held_out_sums.own for row in report.layers], dtype=np.float64)


def _times(distance: float, usual: float) -> float | None:
    return distance / usual if usual > 0 else None
