"""What the conversion to GGUF did to a tensor, undone: permuted rows, norms plus one, fused rows in another order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

__all__ = [
    *("Heads", "Join", "Undo", "below", "grouped", "key_above_value", "minus_one", "paired_keys", "paired_queries"),
    "transposed",
]


@dataclass(frozen=True, slots=True)
class Heads:
    """How many of the queries, and of the keys and values."""

    queries: int
    keys: int


Undo = Callable[[torch.Tensor, Heads], torch.Tensor]
"""The tensor as transformers has it, of the stored one."""


Join = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""One tensor of two; raises RuntimeError where they don't fit together."""


def below(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The outputs of the second behind the first's: two of one size, [..., outputs, inputs]."""
    return torch.stack([first, second], dim=-3).flatten(-3, -2)


def key_above_value(keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """[heads × (keys + values), latent] of each head's keys, turned round, and its values: [heads, latent, keys] and
    [heads, values, latent].
    """
    return torch.cat([keys.mT, values], dim=-2).flatten(0, 1)


def paired_queries(tensor: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Query rows whose rotated pairs lie side by side (what ggml calls a normal rotary embedding), as two halves."""
    return _halves(tensor, heads.queries)


def paired_keys(tensor: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Key rows, likewise."""
    return _halves(tensor, heads.keys)


def _halves(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])  # heads, pairs, two of a pair, …
    return pairs.transpose(1, 2).reshape(tensor.shape)


def minus_one(tensor: torch.Tensor, heads: Heads) -> torch.Tensor:
    """A norm's weight that is stored plus one."""
    return tensor - 1


def transposed(tensor: torch.Tensor, heads: Heads) -> torch.Tensor:
    """A matrix that transformers keeps as inputs × outputs."""
    return tensor.T.contiguous()


def grouped(tensor: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Fused rows, stored as all queries, keys, values: as each key's queries, itself and its value."""
    size = tensor.shape[0] // (heads.queries + 2 * heads.keys)
    bounds = (0, heads.queries * size, (heads.queries + heads.keys) * size, tensor.shape[0])
    parts = [tensor[begin:end] for begin, end in pairwise(bounds)]
    groups = [part.reshape(heads.keys, -1, *tensor.shape[1:]) for part in parts]
    return torch.cat(groups, dim=1).reshape(tensor.shape)
