"""Faults to plant in a healthy network, one block at a time, for `selftest`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peelaudit.network.block import Block
from peelaudit.records import FaultKind

__all__ = ["NOISE", "damaged"]

NOISE = 0.3
"""Standard deviation of a noised block's noise, relative to that of each matrix."""


@torch.no_grad()
def damaged(block: Block, kind: FaultKind, *, heads: int, seed: int, amount: float = NOISE) -> Block:
    """A copy of the block with a fault; low-bit weights are rounded again.

    Args:
        block: the healthy one.
        kind: any but ROLLED_BACK, which is another checkpoint's block.
        heads: of the attention.
        seed: of what is random about it.
        amount: of noise, relative to each matrix' standard deviation.

    Raises:
        ValueError: for ROLLED_BACK.
    """
    copy = block.copy()
    generator = torch.Generator().manual_seed(seed)
    attention, mlp = copy.writers
    match kind:
        case FaultKind.REINITIALISED:
            for linear in copy.linears().values():
                _set(linear, _weight(linear).std() * _normal(_weight(linear), generator))
        case FaultKind.NOISED:
            for linear in copy.linears().values():
                weight = _weight(linear)
                _set(linear, weight + amount * weight.std() * _normal(weight, generator))
        case FaultKind.MLP_ZEROED:
            _set(mlp, torch.zeros_like(_weight(mlp)))
        case FaultKind.ATTENTION_ZEROED:
            _set(attention, torch.zeros_like(_weight(attention)))
        case FaultKind.ONE_BIT:
            for linear in copy.linears().values():
                weight = _weight(linear)
                inputs = 1 if isinstance(linear, nn.Linear) else 0
                # A zero, of which ternary weights are full, has no sign to keep.
                signs = torch.where(weight == 0, _normal(weight, generator).sign(), weight.sign())
                _set(linear, signs * weight.abs().mean(dim=inputs, keepdim=True))
        case FaultKind.HEAD_SCRAMBLED:
            _scramble(attention, heads, generator)
        case FaultKind.ROLLED_BACK:
            raise ValueError("a block is rolled back by taking it from an earlier checkpoint")
    return copy.rounded()


def _scramble(writer: nn.Module, heads: int, generator: torch.Generator) -> None:
    """Shuffle one head's part of the attention's output matrix, both ways."""
    weight = _weight(writer).clone()
    by_input = weight.T if isinstance(writer, nn.Linear) else weight
    size = len(by_input) // heads
    start = size * int(torch.randint(heads, (1,), generator=generator))
    part = by_input[start : start + size].clone()
    rows, columns = (torch.randperm(length, generator=generator) for length in part.shape)
    by_input[start : start + size] = part[rows][:, columns]
    _set(writer, weight)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _weight(linear: nn.Module) -> Tensor:
    weight: Tensor = linear.weight  # type: ignore[assignment]
    return weight


def _set(linear: nn.Module, weight: Tensor) -> None:
    linear.weight = nn.Parameter(weight, requires_grad=False)
