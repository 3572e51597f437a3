"""Documents from several places, each of which gives its share of the sequences: drawn, and told apart in the splits.

Without weights everything is one portion. With them each is drawn and split by itself, so that every split has the
shares that were asked for, up to one sequence; where one hasn't enough, all give less, for the mixture is what the
figures are about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from peelaudit.calibration.arrays import Tokens
from peelaudit.calibration.corpus import Portion
from peelaudit.calibration.drawing import Cluster, Document, Drawn, draw_documents, draw_streams
from peelaudit.calibration.splits import assign

__all__ = ["Encode", "Mixture", "draw", "split"]


class Encode(Protocol):
    """What gives a document's ids."""

    def __call__(self, document: Document, limit: int, *, whole: bool) -> Tokens:
        """The first `limit` ids of a document, which is a whole one or a part of an undivided text."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """What each portion gave. `available` counts the tokens that there are in these shares, where a portion has given
    all that it has; else it is None.
    """

    drawn: list[Drawn]
    available: int | None


def draw(portions: Sequence[Portion[Document]], encode: Encode, *, seq_len: int, wanted: int, seed: int) -> Mixture:
    """About `wanted` sequences from all of them, each its share."""
    drawn = _drawn(portions, encode, seq_len=seq_len, counts=_counts(wanted, portions), seed=seed)
    pairs = list(zip(drawn, portions, strict=True))
    short = [one.tokens / portion.share for one, portion in pairs if one.exhausted]
    possible = int(min(one.sequences / portion.share for one, portion in pairs))
    if len(portions) > 1 and possible < wanted:
        drawn = _drawn(portions, encode, seq_len=seq_len, counts=_counts(possible, portions), seed=seed)
    return Mixture(drawn, int(min(short)) if short else None)


def split(portions: Sequence[Sequence[Cluster]], shares: Sequence[float], seed: int) -> list[list[list[Cluster]]]:
    """Which clusters go to which split: by split, and within it by portion."""
    splits: list[list[list[Cluster]]] = [[] for _ in shares]
    for clusters in portions:
        order = np.random.default_rng([seed, 1]).permutation(len(clusters)).tolist()
        members = assign([len(cluster.sequences) for cluster in clusters], shares, order)
        for found, indices in zip(splits, members, strict=True):
            found.append([clusters[index] for index in indices])
    return splits


def _drawn(
    portions: Sequence[Portion[Document]], encode: Encode, *, seq_len: int, counts: Sequence[int], seed: int
) -> list[Drawn]:
    found = []
    for portion, count in zip(portions, counts, strict=True):
        encoding = partial(encode, whole=portion.divided)
        if portion.divided:
            order = np.random.default_rng([seed, 0]).permutation(len(portion.documents)).tolist()
            found.append(draw_documents(portion.documents, encoding, seq_len=seq_len, wanted=count, order=order))
        else:
            found.append(draw_streams(portion.documents, encoding, seq_len=seq_len, wanted=count))
    return found


def _counts(total: int, portions: Sequence[Portion[Document]]) -> list[int]:
    """`total` in these shares: whole numbers above 0, what is left over going to the largest remainders."""
    exact = [total * portion.share for portion in portions]
    counts = [int(count) for count in exact]
    remainders = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
    for index in remainders[: total - sum(counts)]:
        counts[index] += 1
    return [max(1, count) for count in counts]
