"""Bounds, gaps and verdicts from losses: METHOD.md sections 1 to 5, on numbers alone.

A loss here is an array, [sequences], of nats summed over each sequence's predictions; a `Panel` says which split each
sequence belongs to, and turns such sums into figures with intervals. Selection is on *select*: the bound on
*held-out* is the loss of the reference that is best on *select*, so it is not biased low by the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from peelaudit.errors import NonFiniteResult
from peelaudit.method.references.schedules import Schedule
from peelaudit.records import Estimate, SplitFigures, Verdict, YesBound
from peelaudit.stats import RESOLUTION, ClusterBootstrap

__all__ = [
    "Losses",
    "Panel",
    "Reference",
    "Split",
    "best",
    "figures",
    "paper_verdict",
    "verdict",
    "yes_bounds",
]

Losses = NDArray[np.float64]
Split = Literal["fit", "select", "held_out"]


@dataclass(frozen=True, slots=True)
class Panel:
    """The sequences that losses were taken on.

    Attributes:
        index: [n] their rows in the states and tokens.
        splits: where each split's are among the n.
        bootstraps: the draws of each split's clusters, the same for every figure.
        predictions: predicted tokens of a sequence.
    """

    index: NDArray[np.int64]
    splits: Mapping[Split, slice]
    bootstraps: Mapping[Split, ClusterBootstrap]
    predictions: int

    @classmethod
    def of(
        cls,
        clusters: Mapping[Split, NDArray[np.int64]],
        positions: int,
        *,
        resamples: int,
        seed: int,
        fit_sequences: int | None = None,
    ) -> Panel:
        """A panel of all sequences, or of `fit_sequences` from *fit*, evenly spaced, and all of the others.

        Args:
            clusters: [sequences] the cluster of each sequence, for each split in the order of the states.
            positions: of a sequence.
            resamples: bootstrap draws.
            seed: of the draws.
            fit_sequences: how many of *fit* are enough.
        """
        index: list[NDArray[np.int64]] = []
        splits: dict[Split, slice] = {}
        bootstraps: dict[Split, ClusterBootstrap] = {}
        start = rows = 0
        for number, (split, names) in enumerate(clusters.items()):
            chosen = np.arange(len(names))
            if split == "fit" and fit_sequences is not None:
                chosen = _spread(names, fit_sequences)
            index.append(start + chosen)
            splits[split] = slice(rows, rows + len(chosen))
            bootstraps[split] = ClusterBootstrap(names[chosen], resamples=resamples, seed=seed + number)
            start, rows = start + len(names), rows + len(chosen)
        return cls(np.concatenate(index), splits, bootstraps, positions - 1)

    def mean(self, losses: Losses, split: Split) -> float:
        """nats/token over the split."""
        return float(losses[self.splits[split]].sum()) / (self.predictions * len(losses[self.splits[split]]))

    def cluster_sums(self, losses: Losses, split: Split) -> tuple[float, ...]:
        """[clusters] nats over each of the split's clusters."""
        return tuple(self.bootstraps[split].per_cluster(losses[self.splits[split]]).tolist())

    def cluster_predictions(self, split: Split) -> tuple[int, ...]:
        """[clusters] predicted tokens of each of the split's clusters."""
        sequences = self.splits[split].stop - self.splits[split].start
        counts = self.bootstraps[split].per_cluster(np.full(sequences, self.predictions))
        return tuple(int(count) for count in counts)

    def estimate(self, losses: Losses, split: Split) -> Estimate:
        """nats/token over the split, of a loss or of a difference of two, with its interval.

        Raises:
            NonFiniteResult: if a sum is NaN or Inf.
        """
        part = losses[self.splits[split]]
        try:
            return self.bootstraps[split].ratio(part, np.full(len(part), self.predictions))
        except FloatingPointError as error:
            raise NonFiniteResult(f"{split}: {error}") from error


def _spread(clusters: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` indices, evenly spaced; all of them if these would be of one cluster alone."""
    if count >= len(clusters):
        return np.arange(len(clusters))
    chosen = np.linspace(0, len(clusters) - 1, count).round().astype(np.int64)
    return chosen if len(np.unique(clusters[chosen])) > 1 else np.arange(len(clusters))


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference network's losses, under the row's readout. `targets` are those of its blocks, as many as it has."""

    name: str
    targets: tuple[int, ...]
    losses: Losses


def best(panel: Panel, references: Sequence[Reference], split: Split) -> Reference:
    """The reference of least mean loss on a split; the first of equals."""
    return min(references, key=lambda reference: panel.mean(reference.losses, split))


def figures(
    panel: Panel,
    split: Split,
    *,
    own: Losses,
    trained: Losses,
    yes0: Losses,
    bound: Losses,
    float_bound: Losses | None = None,
) -> SplitFigures:
    """One network's figures on one split.

    Args:
        panel: of the losses.
        split: which split.
        own: of the trained states under the model's own head.
        trained: of the trained states under the row's readout.
        yes0: of the schedule `final`, under the row's readout.
        bound: of the reference chosen for this split, under the row's readout.
        float_bound: of the float reference chosen for this split, where there are float ones beside.
    """
    excess0, excess = panel.estimate(trained - yes0, split), panel.estimate(trained - bound, split)
    return SplitFigures(
        trained_loss=panel.estimate(own, split),
        trained_readout_loss=panel.estimate(trained, split),
        yes0=panel.estimate(yes0, split),
        bound=panel.estimate(bound, split),
        gap_total=panel.estimate(own - bound, split),
        gap_head=panel.estimate(own - trained, split),
        gap_layers=excess,
        verdict=verdict(excess0, excess),
        float_bound=None if float_bound is None else panel.estimate(float_bound, split),
        distortion=None if float_bound is None else panel.estimate(bound - float_bound, split),
    )


def verdict(over_yes0: Estimate, over_bound: Estimate) -> Verdict:
    """The verdict that the intervals allow.

    Args:
        over_yes0: trained loss minus YES-0, same tokens, same readout.
        over_bound: trained loss minus the best bound.
    """
    if over_yes0.low > RESOLUTION:
        return Verdict.RED
    if over_bound.high <= RESOLUTION and over_yes0.high <= RESOLUTION:
        return Verdict.GREEN
    if over_yes0.high <= RESOLUTION and over_bound.low > RESOLUTION:
        return Verdict.YELLOW
    return Verdict.GREY


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
