"""MXFP4 as gpt-oss has it: 4-bit floats in groups of 32 inputs, of each matrix or of a stack of experts' matrices.

    X_blocks  [experts, outputs, groups, 16] uint8   two codes (e2m1) in each, the first in the low bits
    X_scales  [experts, outputs, groups] uint8       an exponent of 2 (e8m0)

A stack is kept as [experts, inputs, outputs], as transformers computes with it; one matrix, whose tensors have no
experts, as [outputs, inputs].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.small_floats import EXPONENTS, e2m1, e8m0

__all__ = ["Mxfp4"]

_BYTES = 16


class Mxfp4(Method):
    """4-bit floats whose scales are powers of 2."""

    parts = ("blocks", "scales")
    marks = parts
    joint, stands_for = "_", ""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        settings.flag("dequantize")

    def layout(self, module: StoredModule) -> Layout:
        """The size by the blocks, of which each has a scale."""
        rank = 3 if module.rank("blocks", 4) == 3 else 4
        *stack, outputs, groups, width = module.shape("blocks", rank, ("uint8",))
        if width != _BYTES:
            raise module.mismatched(f"its blocks are of {width} bytes, not {_BYTES}")
        if module.shape("scales", rank - 1, EXPONENTS) != (*stack, outputs, groups):
            raise module.mismatched(f"its scales aren't {' × '.join(map(str, (*stack, outputs, groups)))}")
        packed = PackedType("mxfp4", "fp4", f"g{2 * _BYTES}")
        return Layout(outputs, groups * 2 * _BYTES, str(packed), math.prod(stack) if stack else None)

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """Code * scale, [outputs, inputs] or [experts, inputs, outputs]."""
        scales = e8m0(module.read("scales").view(torch.uint8))
        matrices = (e2m1(module.read("blocks")) * scales[..., None]).flatten(-2)
        return matrices if layout.experts is None else matrices.mT.contiguous()
