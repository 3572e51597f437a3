"""What a block shows by itself, without a repair: matrices that can't be told from random ones, a half that is silent,
weights of fewer values than the other blocks'.

A matrix of independent entries of one spread has no singular value far above the edge that random matrix theory gives
for its size; training leaves some far above it (Martin and Mahoney, arXiv 1810.01075). The largest eigenvalue of such
a Gram matrix, centred and scaled for its size, follows the Tracy-Widom law (Johnstone, "On the distribution of the
largest eigenvalue in principal components analysis", 2001): under 1 or so, and hardly ever beyond 5. A block
none of whose matrices comes to 8 is untrained, or was overwritten. Measured on four small trained networks: at
least 86 for every block as trained, at most 2 for the same blocks redrawn, 3 before the first step.

A half is silent where it adds next to nothing to the residual stream, or the same to every token, compared with the
other layers' same half: a matrix of zeros leaves its bias. The redundancy of leaving a block out doesn't tell: where
the state has a few huge directions, as in many large networks, it is near 0 for blocks that matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from peelaudit.method.linalg.moments import accumulation_dtype
from peelaudit.method.linalg.spectrum import leading
from peelaudit.network.block import Addition, Block
from peelaudit.network.linear import Tap, tapped
from peelaudit.network.lowbit.detection import find_grid
from peelaudit.network.memory import batches
from peelaudit.records import GridKind, LayerSigns, Symptom

__all__ = ["RANDOM", "SILENT_SHARE", "signs", "spectral_excess", "symptoms"]

RANDOM = 8.0
"""Spectral excess up to which a matrix may be random."""
_LEVELS = {GridKind.BINARY: 2, GridKind.TERNARY: 3}
SILENT_SHARE = 1e-3
"""A half is silent that writes less than this share of the layers' median, about its mean over the tokens."""


@torch.no_grad()
def signs(block: Block, inputs: Tensor, rows: slice) -> LayerSigns:
    """What the block shows.

    Args:
        block: as trained.
        inputs: h_{k-1}, [sequences, positions, d_model].
        rows: the sequences to run it on.
    """
    linears = block.linears()
    excess = {path: spectral_excess(linear.weight) for path, linear in linears.items()}
    grids = [find_grid(linear.turned(linear.weight).T) for linear in linears.values()]
    levels = [_LEVELS.get(grid.kind, 0) for grid in grids if grid is not None]
    few = len(levels) == len(grids) and all(levels)
    attention, mlp = _written(block, inputs, rows)
    return LayerSigns(
        attention,
        mlp,
        max(excess.values()),
        max(levels) if few else None,
        experts=block.experts or None,
        random_experts=_random_experts(block, excess),
    )


def _random_experts(block: Block, excess: Mapping[str, float]) -> tuple[int, ...]:
    """The experts none of whose matrices can be told from random ones."""
    most: dict[int, float] = {}
    for path, number in block.numbered().items():
        most[number] = max(excess[path], most.get(number, -math.inf))
    return tuple(number for number, one in sorted(most.items()) if one <= RANDOM)


def spectral_excess(weight: Tensor) -> float:
    """How far the largest eigenvalue of a matrix' Gram matrix is above what random entries give, in the Tracy-Widom
    law's unit.
    """
    matrix = weight.detach().float()
    matrix = matrix - matrix.mean()
    spread = float(matrix.square().mean().sqrt())
    rows, columns = math.sqrt(max(1, matrix.shape[0] - 1)), math.sqrt(matrix.shape[1])
    largest = float(leading(matrix / (spread or 1.0), 1, steps=8).s[0])
    scale = (rows + columns) * (1 / rows + 1 / columns) ** (1 / 3)
    return float((largest**2 - (rows + columns) ** 2) / scale)


def _written(block: Block, inputs: Tensor, rows: slice) -> tuple[float, float]:
    """The root mean square of what attention and MLP each add to the residual stream, about its mean over tokens."""
    made: dict[nn.Module, Tensor] = {}

    def keeping(module: nn.Module) -> Tap:
        def keep(_: Tensor, output: Tensor) -> None:
            made[module] = output.reshape(-1, output.shape[-1])

        return keep

    halves = block.additions
    spreads = [_Spread() for _ in halves]
    seen = [module for half in halves for one in half for module in (one.module, one.gate) if module is not None]
    with tapped([(module, keeping(module)) for module in seen]):
        for part in batches(rows, inputs.shape[1], block.memory.tokens):
            block(block.take(inputs[part]))
            for spread, half in zip(spreads, halves, strict=True):
                parts = [_added(one, made, (part.stop - part.start) * inputs.shape[1]) for one in half]
                spread.add(torch.stack(parts).sum(dim=0))
    attention, mlp = (spread.value() for spread in spreads)
    return attention, mlp


class _Spread:
    """The root mean square of rows about their mean, batch by batch."""

    def __init__(self) -> None:
        self._pivot: Tensor | None = None
        self._total: Tensor | float = 0.0
        self._squares, self._rows = 0.0, 0

    def add(self, rows: Tensor) -> None:
        """Rows, [tokens, d_model]. They are taken from the first ones' mean, so that equal ones come to nothing."""
        if self._pivot is None:
            self._pivot = rows.mean(dim=0)
        apart = rows - self._pivot
        self._total = self._total + apart.sum(dim=0)
        self._squares += float(apart.square().sum())
        self._rows += len(rows)

    def value(self) -> float:
        """Over the rows and their entries."""
        mean = torch.as_tensor(self._total) / self._rows
        return math.sqrt(max(0.0, self._squares / self._rows - float(mean.square().sum())) / mean.numel())


def _added(addition: Addition, made: Mapping[nn.Module, Tensor], tokens: int) -> Tensor:
    """[tokens, d_model] of what modules made: some experts return the tokens once for each of them."""
    product = made[addition.module]
    product = product.view(-1, tokens, product.shape[-1]).sum(dim=0)
    product = addition.factor * product.to(accumulation_dtype(product.device))
    return product if addition.gate is None else product * made[addition.gate].to(product).sigmoid()


def symptoms(layers: Sequence[LayerSigns], digests: Sequence[str] = ()) -> tuple[tuple[Symptom, ...], ...]:
    """What is wrong with each of a network's layers, as far as its signs tell, and the digests of the blocks' weights
    where they are given.
    """
    attention = _silent([one.attention_rms for one in layers])
    mlp = _silent([one.mlp_rms for one in layers])
    levels = [math.inf if one.levels is None else float(one.levels) for one in layers]
    usual = float(np.median(levels))
    return tuple(
        (
            *((Symptom.UNTRAINED,) if one.spectral_excess <= RANDOM else ()),
            *((Symptom.EXPERT_UNTRAINED,) if one.random_experts and one.spectral_excess > RANDOM else ()),
            *((Symptom.ATTENTION_SILENT,) if attention[index] else ()),
            *((Symptom.MLP_SILENT,) if mlp[index] else ()),
            *((Symptom.COARSE,) if levels[index] < usual else ()),
            *((Symptom.SAME_WEIGHTS,) if digests and digests.count(digests[index]) > 1 else ()),
        )
        for index, one in enumerate(layers)
    )


def _silent(written: Sequence[float]) -> list[bool]:
    least = SILENT_SHARE * float(np.median(written))
    return [value <= least for value in written]
