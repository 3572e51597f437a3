"""What a block is called with beside the hidden states: masks, rotary tables, biases of positions, for any batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Arguments"]

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a block's call behind the hidden states, as they are for one sequence.

    `repeated` says of each, in pytree's order, whether it is made once for every sequence of a batch.
    """

    call: Call
    repeated: tuple[bool, ...] = ()

    @classmethod
    def of(cls, one: Call, two: Call) -> Arguments | None:
        """From the calls for one sequence and for two that hold other tokens; None where tokens make a difference."""
        leaves, others = pytree.tree_leaves(one), pytree.tree_leaves(two)
        if pytree.tree_structure(one) != pytree.tree_structure(two):
            return None
        repeated = [_repeats(a, b) for a, b in zip(leaves, others, strict=True)]
        return None if None in repeated else cls(one, tuple(cast("list[bool]", repeated)))

    def for_batch(self, size: int) -> Call:
        """The arguments for so many sequences."""
        if not any(self.repeated):
            return self.call
        leaves, structure = pytree.tree_flatten(self.call)
        made: Sequence[Any] = [
            _repeat(leaf, size) if repeated else leaf for leaf, repeated in zip(leaves, self.repeated, strict=True)
        ]
        return cast("Call", pytree.tree_unflatten(made, structure))


def _repeat(tensor: Tensor, size: int) -> Tensor:
    if len(tensor) == 1:
        return tensor.expand(size, *tensor.shape[1:])
    return tensor.repeat(size, *[1] * (tensor.ndim - 1))


def _repeats(one: Any, two: Any) -> bool | None:
    """Whether an argument is there once a sequence; None where it is another one for other tokens."""
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return None if isinstance(one, Tensor) or isinstance(two, Tensor) or one != two else False
    if one.shape == two.shape:
        return False if _equal(one, two) else None
    if one.ndim > 0 and two.shape == (2 * len(one), *one.shape[1:]):
        return True if _equal(_repeat(one, 2), two) else None
    return None


def _equal(one: Tensor, two: Tensor) -> bool:
    return torch.equal(one, two) or (one.is_floating_point() and torch.equal(one.nan_to_num(), two.nan_to_num()))
