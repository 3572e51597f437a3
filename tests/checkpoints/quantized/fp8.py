"""Weights as 8-bit floats with a scale a block, as DeepSeek's and Qwen's files have them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.checkpoints.quantized.support import Packer

UP = "model.layers.1.mlp.up_proj"
LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def packer(block: tuple[int, int], *, exponents: Any = None, code: torch.dtype = torch.float8_e4m3fn) -> Packer:
    """Scales over blocks, one by one; `exponents` is the dtype of scales that are powers of 2, in one byte each."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        down, across = (math.ceil(size / length) for size, length in zip(weight.shape, block, strict=True))
        codes, value = torch.empty(weight.shape, dtype=code), torch.empty(weight.shape)
        scales = torch.empty(down, across)
        for row in range(down):
            for column in range(across):
                at = (
                    slice(row * block[0], (row + 1) * block[0]),
                    slice(column * block[1], (column + 1) * block[1]),
                )
                scale = weight[at].abs().max() / LARGEST[code]
                scale = scale if exponents is None else 2.0 ** scale.log2().ceil()
                codes[at] = (weight[at] / scale).to(code)
                value[at] = codes[at].float() * scale
                scales[row, column] = scale
        if exponents is not None:
            scales = (scales.log2() + 127).to(torch.uint8).view(exponents)
        return {"weight": codes, "weight_scale_inv": scales}, value

    return quantise


def plain(*, rows: bool = False, shape: tuple[int, ...] | None = None) -> Packer:
    """One `weight_scale` for the matrix, or for each output."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale = weight.abs().amax(dim=1, keepdim=True) if rows else weight.abs().max()
        codes = (weight / (scale / 448)).to(torch.float8_e4m3fn)
        stored = (scale / 448).reshape(shape) if shape is not None else scale / 448
        return {"weight": codes, "weight_scale": stored}, codes.float() * (scale / 448)

    return quantise


def config(block: tuple[int, int] | None = (32, 32), **more: Any) -> dict[str, Any]:
    size = None if block is None else [*block]
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": size, **more}
