"""Changes of many blocks' linear maps at once, and the sums that second-order steps need of them.

A sum is made map by map, when a map of it is asked for: of a large network no two are ever in memory that nobody keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from peelaudit.method.linalg.moments import accumulation_dtype

__all__ = ["Changes", "block_changes", "dot", "plus", "times"]

Changes = Mapping[tuple[int, str], Tensor]
"""By layer, 1 … L, and the map's path in its block: [inputs, outputs], behind it a row for a bias."""


def dot(one: Changes, other: Changes) -> float:
    """The inner product over all maps, summed in float64."""
    return sum(_dot(one[key], other[key]) for key in one)


def _dot(one: Tensor, other: Tensor) -> float:
    wide = accumulation_dtype(one.device)
    return float((one.to(wide) * other.to(device=one.device, dtype=wide)).sum())


def plus(one: Changes, step: float, other: Changes) -> Changes:
    """`one` + `step` × `other`; a map that `one` hasn't counts as 0 there."""
    return _Sum(one, step, other)


def times(step: float, changes: Changes) -> Changes:
    """`step` × `changes`."""
    return _Sum({}, step, changes)


@dataclass(frozen=True, slots=True, eq=False)
class _Sum(Mapping[tuple[int, str], Tensor]):
    """See `plus`."""

    one: Changes
    step: float
    other: Changes

    def __getitem__(self, key: tuple[int, str]) -> Tensor:
        change = self.step * self.other[key]
        return change + self.one[key].to(change.device) if key in self.one else change

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self.other)

    def __len__(self) -> int:
        return len(self.other)

    def __contains__(self, key: object) -> bool:
        return key in self.other


def block_changes(changes: Changes, layer: int) -> dict[str, Tensor]:
    """Those of one block, by path."""
    return {key[1]: changes[key] for key in changes if key[0] == layer}
