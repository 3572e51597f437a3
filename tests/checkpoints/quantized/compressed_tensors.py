"""Weights packed as compressed-tensors packs them, and what config.json then says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.checkpoints.quantized.support import Packer, packed_bits

UP = "model.layers.1.mlp.up_proj"
BLOCKS = {"tensor": (None, None), "channel": (1, None), "group": (1, 32), "block": (32, 32)}
"""Rows and columns that share a scale; None for all."""


def tiled(weight: Tensor, strategy: str) -> tuple[Tensor, tuple[int, int]]:
    """[blocks down, rows, blocks across, columns], and a block's size."""
    rows, columns = (size or whole for size, whole in zip(BLOCKS[strategy], weight.shape, strict=True))
    return weight.reshape(len(weight) // rows, rows, -1, columns), (rows, columns)


def packer(strategy: str, bits: int = 8, *, sym: bool = True, packed: bool = False, dtype: Any = torch.int8) -> Packer:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        tiles, _ = tiled(weight, strategy)
        half = 2 ** (bits - 1)
        low, high = tiles.amin(dim=(1, 3), keepdim=True), tiles.amax(dim=(1, 3), keepdim=True)
        if sym:
            scale, zero = (
                torch.maximum(-low, high) / (half - 0.5 if dtype is torch.int8 else 448),
                torch.zeros_like(low),
            )
        else:
            scale = (high - low) / (2 * half - 1)
            zero = (-half - low / scale).round().clamp(-half, half - 1)
        scale = scale.bfloat16().float()
        codes = tiles / scale + zero
        codes = codes.round().clamp(-half, half - 1) if dtype is torch.int8 else codes.to(dtype).float()
        value = ((codes - zero) * scale).reshape(weight.shape)
        codes, scale, zero = codes.reshape(weight.shape), scale[:, 0, :, 0], zero[:, 0, :, 0]
        if packed:
            parts = {
                "weight_packed": packed_bits((codes + half).numpy(), bits),
                "weight_shape": torch.tensor(weight.shape),
            }
        else:
            parts = {"weight": codes.to(dtype)}
        parts["weight_scale"] = scale.reshape(1 if strategy == "tensor" else scale.shape).bfloat16()
        if not sym and packed:
            parts["weight_zero_point"] = packed_bits((zero + half).T.numpy(), bits).T
        elif not sym:
            parts["weight_zero_point"] = zero.to(torch.int8).reshape(parts["weight_scale"].shape)
        return parts, value

    return quantise


def config(name: str, bits: int = 8, kind: str = "int", **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "symmetric": True, "strategy": "group", "group_size": 32}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": name,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        **more,
    }
