"""Three splits: clusters in, fit, select and held-out out. A cluster is in one of them only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peelaudit.calibration.arrays import Tokens
from peelaudit.calibration.drawing import Cluster
from peelaudit.records import SplitInfo

__all__ = ["MIN_CLUSTERS", "MIN_CLUSTERS_PER_SPLIT", "Split", "assign", "join", "sha256_of_tokens", "split_info"]

MIN_CLUSTERS_PER_SPLIT = 2
"""Resampling a single cluster has no spread."""

MIN_CLUSTERS = 3 * MIN_CLUSTERS_PER_SPLIT


@dataclass(frozen=True, slots=True)
class Split:
    """`tokens` is [sequences, positions], int64; `clusters` is [sequences], int64: the cluster of each, 0 ... n-1.

    `fed_only`, [sequences, positions], is true where a token isn't to be predicted; None where all are.
    """

    tokens: Tokens
    clusters: Tokens
    fed_only: npt.NDArray[np.bool_] | None = None


def assign(sizes: Sequence[int], shares: Sequence[float], order: Sequence[int]) -> list[list[int]]:
    """Which clusters go to which split: their indices, by split, in ascending order.

    Large clusters are placed first, and among equals those that come first in `order`; each goes where most sequences
    are lacking. Then a split with fewer than two clusters takes the smallest of the split that has most.
    """
    total = sum(sizes)
    lacking = [share * total for share in shares]
    splits: list[list[int]] = [[] for _ in shares]
    for index in sorted(order, key=lambda index: -sizes[index]):
        split = max(range(len(shares)), key=lambda split: lacking[split])
        splits[split].append(index)
        lacking[split] -= sizes[index]
    for poor in splits:
        while len(poor) < MIN_CLUSTERS_PER_SPLIT:
            poor.append(max(splits, key=len).pop())
    return [sorted(split) for split in splits]


def join(clusters: Sequence[Cluster]) -> Split:
    """The sequences of the clusters, one after the other."""
    tokens = np.ascontiguousarray(np.concatenate([cluster.sequences for cluster in clusters]))
    sizes = [len(cluster.sequences) for cluster in clusters]
    return Split(tokens, np.repeat(np.arange(len(clusters), dtype=np.int64), sizes))


def split_info(split: Split, documents: int | None) -> SplitInfo:
    """The sizes of a split. Each sequence predicts all of its tokens but the first and those that are only fed."""
    sequences, positions = split.tokens.shape
    left_out = 0 if split.fed_only is None else int(split.fed_only[:, 1:].sum())
    return SplitInfo(
        sequences=sequences,
        tokens=sequences * positions,
        predicted_tokens=sequences * (positions - 1) - left_out,
        clusters=int(split.clusters[-1]) + 1,
        documents=documents,
    )


def sha256_of_tokens(splits: Sequence[Split]) -> str:
    """The hash of the shapes and the ids (little-endian int64), split after split."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.tokens.shape}\n".encode())
        digest.update(split.tokens.astype("<i8").tobytes())
    return digest.hexdigest()
