"""The matrices of a block that can be rounded by themselves, and the block with some of them rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from peelaudit.network.block import Block
from peelaudit.network.linear import LinearMap
from peelaudit.network.lowbit.constraints import Held, Integer
from peelaudit.records import ScaleLayout

__all__ = ["group_of", "matrices", "rounded"]


def matrices(block: Block) -> dict[str, tuple[LinearMap, ...]]:
    """The block's maps by their names in it. Of a mixture's experts those that do the same are together, by the name of
    transformers' tensor; what decides on experts isn't among them.
    """
    router, numbers = block.router, block.numbered()
    found: dict[str, list[LinearMap]] = {}
    for path, one in block.linears().items():
        if router is None or path != router.path:
            found.setdefault(path.rpartition(".")[0] if path in numbers else path, []).append(one)
    return {name: tuple(maps) for name, maps in found.items()}


def group_of(inputs: int, wanted: int) -> int:
    """The length of a group: `wanted`, or, where it doesn't divide the inputs, the nearest length by ratio that does,
    the shorter of two.
    """
    lengths = [length for length in range(1, inputs + 1) if inputs % length == 0]
    return min(lengths, key=lambda length: (abs(math.log(length / wanted)), length))


@torch.no_grad()
def rounded(block: Block, bits: Mapping[str, int], group: int) -> Block:
    """The block with some matrices rounded to the nearest of 2^bits values, with a scale to each group of neighbouring
    inputs of an output.

    Args:
        block: whose other weights are shared.
        bits: of the weights of each matrix that is rounded.
        group: see `group_of`.
    """
    weights = {}
    for name, maps in matrices(block).items():
        for one in maps if name in bits else ():
            constraint = Integer(ScaleLayout.GROUP, group_of(one.inputs, group), bits[name])
            weights[f"{one.path}.weight"] = Held(constraint, one.inputs_first).quantise(one.weight.float())
    return block.replaced(weights)
