"""Weights that torch stores in two parts, put together as they are read: weight norm, w = g v / |v|.

    x.weight_g, x.weight_v                                                  torch.nn.utils.weight_norm
    x.parametrizations.weight.original0, …original1                         torch.nn.utils.parametrizations.weight_norm

|v| is taken over all dimensions but the one in which g has more than one element (over all of them where it has none).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.store import Store
from peelaudit.errors import MismatchedWeights, UnsupportedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["folded"]

_SIZE = re.compile(r"^(?:(?P<old>.*\.weight)_g|(?P<within>.*\.)?parametrizations\.(?P<name>\w+)\.original0)$")
_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.\w+\.")
_OTHER_PART = {"weight_g": "weight_v", "original0": "original1"}


def folded(store: Store) -> Store:
    """The store with each weight that has weight norm under its plain name; itself where none has.

    Raises:
        MismatchedWeights: a part is missing, doesn't fit the other, or the weight is stored besides.
        UnsupportedCheckpoint: a weight is parametrized in another way.
    """
    pairs: dict[str, tuple[str, str]] = {}
    for name in store.tensors:
        if found := _SIZE.match(name):
            whole = found["old"] or f"{found['within'] or ''}{found['name']}"
            kind = "weight_g" if found["old"] else "original0"
            pairs[whole] = (name, f"{name.removesuffix(kind)}{_OTHER_PART[kind]}")
    parts = {part for pair in pairs.values() for part in pair}
    if other := next((name for name in store.tensors if _PARAMETRIZED.search(name) and name not in parts), None):
        raise UnsupportedCheckpoint(
            f"{quoted(store.paths[0])}: the tensor {quoted(other)} belongs to a parametrization that isn't read; remove"
            " it (torch.nn.utils.parametrize.remove_parametrizations) and save that"
        )
    return _Folded(store, pairs) if pairs else store


class _Folded:
    """Weights put together from their parts, and all other tensors as they are."""

    def __init__(self, store: Store, pairs: Mapping[str, tuple[str, str]]) -> None:
        self._store = store
        self._pairs = pairs
        self.format = store.format
        self.floats: Collection[str] = store.floats
        self.paths: tuple[Path, ...] = store.paths
        parts = {part for pair in pairs.values() for part in pair}
        whole = {name: self._described(name) for name in pairs}
        self.tensors: Mapping[str, TensorInfo] = {
            **{name: info for name, info in store.tensors.items() if name not in parts},
            **whole,
        }

    def _described(self, name: str) -> TensorInfo:
        """The whole weight, once its parts are known to fit each other."""
        size, direction = (self._store.tensors.get(part) for part in self._pairs[name])
        where = f"{quoted(self.paths[0])}: the tensor {quoted(name)}"
        if name in self._store.tensors:
            raise MismatchedWeights(f"{where} is stored twice, with weight norm and without")
        if size is None or direction is None:
            raise MismatchedWeights(f"{where} has weight norm, of which {quoted(self._pairs[name][1])} is missing")
        if size.dtype != direction.dtype or _dimension(size.shape, direction.shape) is None:
            raise MismatchedWeights(f"{where} has weight norm, but its sizes and directions don't fit each other")
        return replace(direction, name=name)

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that name, on the CPU, put together where it has weight norm."""
        if name not in self._pairs:
            return self._store.read(name)
        size, direction = (self._store.read(part) for part in self._pairs[name])
        dimension = _dimension(tuple(size.shape), tuple(direction.shape))
        lengths = torch.norm_except_dim(direction, 2, -1 if dimension is None else dimension)
        return direction * (size / lengths)

    def close(self) -> None:
        """Release the files."""
        self._store.close()


def _dimension(size: tuple[int, ...], direction: tuple[int, ...]) -> int | None:
    """The dimension that g has elements for, -1 where it is a single number; None where the parts don't fit."""
    if not size:
        return -1
    if len(size) != len(direction):
        return None
    shapes = (tuple(length if at == kept else 1 for at, length in enumerate(direction)) for kept in range(len(size)))
    return next((kept for kept, shape in enumerate(shapes) if shape == size), None)
