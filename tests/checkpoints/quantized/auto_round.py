"""Weights packed as AutoRound packs them for GPTQ's kernels, and its settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.checkpoints.quantized.support import Packer, packed_bits

WRITTEN = {"autoround_version": "0.6.0", "iters": 200, "sym": False, "block_name_to_quantize": "model.layers"}


def config(packing: str | None, **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "auto-round",
        "bits": 4,
        "group_size": 32,
        "data_type": "int",
        "packing_format": packing,
        **WRITTEN,
        **more,
    }


def packer(bits: int, *, less_one: bool) -> Packer:
    """Zeros as one number of 32 bits a word, as AutoRound sums them: 0 less one takes from the number above."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        groups, top = weight.reshape(len(weight), -1, 32), 2**bits - 1
        low, high = groups.amin(dim=-1), groups.amax(dim=-1)
        low[::5] = 0  # these groups are clipped from below, and their zero is 0
        scale = ((high - low).clamp_min(1e-3) / top).half().float()
        zero = (-low / scale).round().clamp(0, top)
        codes = (groups / scale[..., None] + zero[..., None]).round().clamp(0, top)
        value = ((codes - zero[..., None]) * scale[..., None]).reshape(weight.shape)
        stored = packed_bits(zero.T.numpy(), bits)
        if less_one:
            ones = sum(1 << shift for shift in range(0, 32, bits))
            stored = ((stored.long() & 0xFFFF_FFFF) - ones) & 0xFFFF_FFFF
            stored = torch.where(stored >= 2**31, stored - 2**32, stored).int()
        qweight = packed_bits(codes.reshape(weight.shape).numpy(), bits).T
        return {"qweight": qweight, "qzeros": stored, "scales": scale.T.half()}, value

    return quantise
