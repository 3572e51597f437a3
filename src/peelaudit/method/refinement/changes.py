"""Changes of many blocks' linear maps at once, and the sums that second-order steps need of them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["Changes", "block_changes", "dot", "plus", "times"]

Changes = Mapping[tuple[int, str], Tensor]
"""By layer, 1 … L, and the map's path in its block: [inputs, outputs], behind it a row for a bias."""


def dot(one: Changes, other: Changes) -> float:
    """The inner product over all maps, summed in float64."""
    return sum(float((one[key].double() * other[key].double()).sum()) for key in one)


def plus(one: Changes, step: float, other: Changes) -> Changes:
    """`one` + `step` × `other`; a map that `one` hasn't counts as 0 there."""
    return {key: step * change + one[key] if key in one else step * change for key, change in other.items()}


def times(step: float, changes: Changes) -> Changes:
    """`step` × `changes`."""
    return {key: step * change for key, change in changes.items()}


def block_changes(changes: Changes, layer: int) -> dict[str, Tensor]:
    """Those of one block, by path."""
    return {path: change for (where, path), change in changes.items() if where == layer}
