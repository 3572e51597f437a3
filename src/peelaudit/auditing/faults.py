"""Faults to plant in a healthy network, one block at a time, for `selftest`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from peelaudit.network.block import Block
from peelaudit.network.linear import LinearMap
from peelaudit.records import FaultKind

__all__ = ["NOISE", "damaged"]

NOISE = 0.3
"""Standard deviation of a noised block's noise, relative to that of each matrix."""


@torch.no_grad()
def damaged(block: Block, kind: FaultKind, *, heads: int, seed: int, amount: float = NOISE) -> Block:
    """A copy of the block with a fault; low-bit weights are rounded again. One of experts changes nothing in a block
    without.

    Args:
        block: the healthy one.
        kind: any but ROLLED_BACK, which is another checkpoint's block.
        heads: of the attention.
        seed: of what is random about it.
        amount: of noise, relative to each matrix' standard deviation.

    Raises:
        ValueError: for ROLLED_BACK.
    """
    generator = torch.Generator().manual_seed(seed)
    attention, *mlp = block.writers
    maps = block.linears().values()
    match kind:
        case FaultKind.REINITIALISED:
            new = _redrawn(maps, generator)
        case FaultKind.NOISED:
            new = {linear.path: _noised(linear.weight, amount, generator) for linear in maps}
        case FaultKind.MLP_ZEROED:
            new = {linear.path: torch.zeros_like(linear.weight) for linear in mlp}
        case FaultKind.ATTENTION_ZEROED:
            new = {attention.path: torch.zeros_like(attention.weight)}
        case FaultKind.ONE_BIT:
            new = {linear.path: _one_bit(linear, generator) for linear in maps}
        case FaultKind.HEAD_SCRAMBLED:
            new = {attention.path: _scrambled(attention, heads, generator)}
        case FaultKind.EXPERT_REINITIALISED:
            new = _redrawn(_one_expert(block, generator), generator)
        case FaultKind.ROUTER_REINITIALISED:
            new = _redrawn([] if block.router is None else [block.router], generator)
        case FaultKind.ROLLED_BACK:
            raise ValueError("a block is rolled back by taking it from an earlier checkpoint")
    return block.replaced({f"{path}.weight": weight for path, weight in new.items()}).rounded()


def _redrawn(maps: Iterable[LinearMap], generator: torch.Generator) -> dict[str, Tensor]:
    return {linear.path: linear.weight.std() * _normal(linear.weight, generator) for linear in maps}


def _one_expert(block: Block, generator: torch.Generator) -> list[LinearMap]:
    """All maps of one of the experts."""
    if not block.experts:
        return []
    chosen, maps = int(torch.randint(block.experts, (1,), generator=generator)), block.linears()
    return [maps[path] for path, number in block.numbered().items() if number == chosen]


def _noised(weight: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    return weight + amount * weight.std() * _normal(weight, generator)


def _one_bit(linear: LinearMap, generator: torch.Generator) -> Tensor:
    """Signs times each output's mean size."""
    weight, inputs = linear.weight, 0 if linear.inputs_first else 1
    # A zero, of which ternary weights are full, has no sign to keep.
    signs = torch.where(weight == 0, _normal(weight, generator).sign(), weight.sign())
    return signs * weight.abs().mean(dim=inputs, keepdim=True)


def _scrambled(writer: LinearMap, heads: int, generator: torch.Generator) -> Tensor:
    """Shuffle one head's part of the attention's output matrix, both ways."""
    weight = writer.weight.clone()
    by_input = writer.turned(weight)
    size = len(by_input) // heads
    start = size * int(torch.randint(heads, (1,), generator=generator))
    part = by_input[start : start + size].clone()
    rows, columns = (torch.randperm(length, generator=generator) for length in part.shape)
    by_input[start : start + size] = part[rows][:, columns]
    return weight


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
