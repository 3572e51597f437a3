"""Tensors that a GGUF file stores apart and transformers has as one: the first two matrices of a mixture's experts, and
what makes keys and values of a latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from peelaudit.checkpoints.gguf_architectures import ARCHITECTURES
from peelaudit.checkpoints.gguf_header import GgufHeader
from peelaudit.checkpoints.gguf_undo import Join, below
from peelaudit.records import TensorInfo

__all__ = ["Pair", "joined_pairs"]


class Pair(NamedTuple):
    """The stored names of two tensors, how one is made of them, and its shape."""

    first: str
    second: str
    join: Join
    shape: tuple[int, ...]

    @property
    def parts(self) -> int:
        """Of how many matrices it is made, the outputs of one behind the other's; 1 where it is made otherwise."""
        return 2 if self.join is below else 1


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
    for one, other, both, join in () if architecture is None else architecture.joined:
        for name in tensors:
            block = name.removesuffix(one)
            second = f"{block}{other}"
            if block == name or second not in tensors:
                continue
            if (shape := _shape(join, tensors[name], tensors[second])) is not None:
                found[f"{block}{both}"] = Pair(name, second, join, shape)
    return found


def _shape(join: Join, first: TensorInfo, second: TensorInfo) -> tuple[int, ...] | None:
    try:
        return tuple(join(*(torch.empty(one.shape, device="meta") for one in (first, second))).shape)
    except (RuntimeError, IndexError):
        return None
