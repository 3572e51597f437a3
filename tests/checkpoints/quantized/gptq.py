"""Weights packed as GPTQ packs them, and what config.json then says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.checkpoints.quantized.support import Packer, packed_bits

UP = "model.layers.1.mlp.up_proj"


def packer(bits: int, group: int, *, sym: bool = True, shift: int = 1, shuffle: bool = False) -> Packer:
    """GPTQ's layout by its description: `shift` is what the first format takes off the zero points."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        outputs, inputs = weight.shape
        size = inputs if group == -1 else group
        index = torch.arange(inputs) // size
        if shuffle:
            index = index[torch.randperm(inputs, generator=torch.Generator().manual_seed(3))]
        scales, zeros, codes = [], [], torch.zeros(outputs, inputs)
        for number in range(int(index.max()) + 1):
            part = weight[:, index == number]
            low, high = part.amin(dim=1), part.amax(dim=1)
            if sym:
                high = torch.maximum(-low, high)
                low = -high
            scale = ((high - low) / (2**bits - 1)).clamp(min=1e-8).half().float()
            zero = torch.full_like(scale, 2 ** (bits - 1)) if sym else (-low / scale).round().clamp(1, 2**bits - 1)
            codes[:, index == number] = (part / scale[:, None] + zero[:, None]).round().clamp(0, 2**bits - 1)
            scales.append(scale)
            zeros.append(zero)
        scale, zero = torch.stack(scales), torch.stack(zeros)
        parts = {
            "qweight": packed_bits(codes.numpy(), bits).T,
            "qzeros": packed_bits((zero - shift).numpy(), bits),
            "scales": scale.half(),
            "g_idx": index.int(),
        }
        return parts, scale[index].T * (codes - zero[index].T)

    return quantise


def config(bits: int, group: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, **more}
