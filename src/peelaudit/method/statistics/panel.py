"""Losses per sequence, and the panel that says which split each sequence is of and turns sums into figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from peelaudit.errors import NonFiniteResult
from peelaudit.method.statistics.bootstrap import ClusterBootstrap
from peelaudit.records import Estimate

__all__ = ["Losses", "Panel", "SplitName", "no_loss", "split_seed", "spread"]

Losses = NDArray[np.float64]
SplitName = Literal["fit", "select", "held_out"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


def split_seed(seed: int, split: SplitName) -> int:
    """The seed of a split's draws in an audit with this seed."""
    return seed + SPLITS.index(split)


@dataclass(frozen=True, slots=True)
class Panel:
    """The sequences that losses were taken on.

    Attributes:
        index: [n] their rows in the states and tokens.
        splits: where each split's are among the n.
        bootstraps: the draws of each split's clusters, the same for every figure.
        predictions: [n] predicted tokens of each.
    """

    index: NDArray[np.int64]
    splits: Mapping[SplitName, slice]
    bootstraps: Mapping[SplitName, ClusterBootstrap]
    predictions: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        clusters: Mapping[SplitName, NDArray[np.int64]],
        positions: int,
        *,
        resamples: int,
        seed: int,
        fit_sequences: int | None = None,
        predictions: NDArray[np.int64] | None = None,
    ) -> Panel:
        """A panel of all sequences, or of `fit_sequences` from *fit*, evenly spaced, and all of the others.

        Args:
            clusters: [sequences] the cluster of each sequence, for each split in the order of the states.
            positions: of a sequence.
            resamples: bootstrap draws.
            seed: of the draws.
            fit_sequences: how many of *fit* are enough.
            predictions: [sequences] predicted tokens of each, in the order of the states; `positions` - 1 if None.
        """
        index: list[NDArray[np.int64]] = []
        splits: dict[SplitName, slice] = {}
        bootstraps: dict[SplitName, ClusterBootstrap] = {}
        start = rows = 0
        for split, names in clusters.items():
            chosen = np.arange(len(names))
            if split == "fit" and fit_sequences is not None:
                chosen = spread(names, fit_sequences)
            index.append(start + chosen)
            splits[split] = slice(rows, rows + len(chosen))
            bootstraps[split] = ClusterBootstrap(names[chosen], resamples=resamples, seed=split_seed(seed, split))
            start, rows = start + len(names), rows + len(chosen)
        rows_of = np.concatenate(index)
        counts = np.full(start, positions - 1) if predictions is None else predictions
        return cls(rows_of, splits, bootstraps, counts[rows_of])

    def mean(self, losses: Losses, split: SplitName) -> float:
        """nats/token over the split."""
        rows = self.splits[split]
        return float(losses[rows].sum()) / int(self.predictions[rows].sum())

    def cluster_sums(self, losses: Losses, split: SplitName) -> tuple[float, ...]:
        """[clusters] nats over each of the split's clusters."""
        return tuple(self.bootstraps[split].per_cluster(losses[self.splits[split]]).tolist())

    def cluster_predictions(self, split: SplitName) -> tuple[int, ...]:
        """[clusters] predicted tokens of each of the split's clusters."""
        counts = self.bootstraps[split].per_cluster(self.predictions[self.splits[split]])
        return tuple(int(count) for count in counts)

    def estimate(self, losses: Losses, split: SplitName) -> Estimate:
        """nats/token over the split, of a loss or of a difference of two, with its interval.

        Raises:
            NonFiniteResult: if a sum is NaN or Inf.
        """
        rows = self.splits[split]
        try:
            return self.bootstraps[split].ratio(losses[rows], self.predictions[rows])
        except FloatingPointError as error:
            raise NonFiniteResult(f"{split}: {error}") from error


def no_loss(gain: Estimate) -> Estimate:
    """What is gained by a reference that is the network with moved blocks: the network as it is may be had as well, so
    that the most that there is to gain isn't below 0, however the moved ones do.
    """
    return replace(gain, high=max(gain.high, 0.0))


def spread(clusters: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` indices, evenly spaced; all of them if these would be of one cluster alone."""
    if count >= len(clusters):
        return np.arange(len(clusters))
    chosen = np.linspace(0, len(clusters) - 1, count).round().astype(np.int64)
    return chosen if len(np.unique(clusters[chosen])) > 1 else np.arange(len(clusters))
