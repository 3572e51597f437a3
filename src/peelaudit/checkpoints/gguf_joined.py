"""Tensors that a GGUF file stores apart and transformers has as one: the first two matrices of a mixture's experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from peelaudit.checkpoints.gguf_architectures import ARCHITECTURES
from peelaudit.checkpoints.gguf_header import GgufHeader
from peelaudit.records import TensorInfo

__all__ = ["Pair", "joined_pairs"]


class Pair(NamedTuple):
    """The stored names of two tensors, of which the outputs of the second stand behind the first's."""

    first: str
    second: str


def joined_pairs(header: GgufHeader, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Pair]:
    """The pairs that the file's architecture has as one, by the name of both. One without the other is left alone, and
    so are two that don't fit together.

    Args:
        header: the file's.
        tensors: all that it stores.
    """
    architecture = ARCHITECTURES.get(str(header.values.get("general.architecture")))
    if architecture is not None and architecture.mixture is not None:
        architecture = architecture.mixture
    found = {}
    for one, other, both in () if architecture is None else architecture.joined:
        for name in tensors:
            block = name.removesuffix(one)
            pair = Pair(name, f"{block}{other}")
            if block != name and pair.second in tensors and tensors[name].shape == tensors[pair.second].shape:
                found[f"{block}{both}"] = pair
    return found
