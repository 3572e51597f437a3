"""AWQ's packing, as its gemm kernels have it: eight outputs in a word, in their order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.checkpoints.quantized.support import Packer, packed_bits

UP = "model.layers.1.mlp.up_proj"
PLACES = {0: 0, 1: 4, 2: 1, 3: 5, 4: 2, 5: 6, 6: 3, 7: 7}
"""For each of eight outputs, its place in the word, from the lowest bits."""


def interleaved(codes: Tensor) -> Tensor:
    """[rows, outputs] with eight outputs in a word."""
    placed = torch.empty_like(codes)
    for output in range(codes.shape[1]):
        placed[:, output - output % 8 + PLACES[output % 8]] = codes[:, output]
    return packed_bits(placed.numpy(), 4)


def packer(group: int) -> Packer:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        rows = weight.reshape(len(weight), -1, weight.shape[1] if group == -1 else group)
        low, high = rows.amin(dim=2), rows.amax(dim=2)
        scale = ((high - low) / 15).half().float()
        zero = (-low / scale).round().clamp(0, 15)
        codes = (rows / scale[..., None] + zero[..., None]).round().clamp(0, 15)
        value = (scale[..., None] * (codes - zero[..., None])).reshape(weight.shape)
        parts = {
            "qweight": interleaved(codes.reshape(weight.shape).T),
            "qzeros": interleaved(zero.T),
            "scales": scale.T.half(),
        }
        return parts, value

    return quantise


def config(group: int = 32, **more: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True, **more}
