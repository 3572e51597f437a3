"""Weights as HQQ packs them, code by code, with its settings as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.checkpoints.quantized.support import Packer

PACKINGS = {8: ("8bit_u8", 1), 4: ("4bit_u8", 2), 3: ("3bit_32", 10), 2: ("2bit_u8", 4), 1: ("1bit_u8", 8)}


def text(value: str) -> Tensor:
    return torch.tensor([*value.encode()], dtype=torch.uint8)


def words(codes: Tensor, bits: int, per_word: int) -> Tensor:
    """Row n, n + step, n + 2 step … in one word, the first in its highest bits."""
    step = -(-len(codes) // per_word)
    made = torch.zeros(step, codes.shape[1], dtype=torch.int64)
    for place in range(per_word):
        share = codes[place * step : (place + 1) * step].long()
        made[: len(share)] |= share << bits * (per_word - 1 - place)
    return made.to(torch.int32 if bits == 3 else torch.uint8)


def packer(bits: int, *, group: int = 32, axis: int = 1, as_float: bool = False) -> Packer:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        rows = weight.reshape(-1, group) if axis == 1 else weight.reshape(group, -1)
        low, high = rows.amin(dim=axis, keepdim=True), rows.amax(dim=axis, keepdim=True)
        scale = (high - low) / (2**bits - 1)
        zero = -low / scale
        codes = (rows / scale + zero).round()
        packing, per_word = PACKINGS[bits]
        stored = words(codes, bits, per_word)
        parts: dict[str, Any] = {
            "W_q": stored.view(torch.float32) if as_float else stored,
            "scale": scale,
            "zero": zero,
            "shape": torch.tensor(weight.shape),
            "packing": text(packing),
            "unpack_view_dtype": text("torch.uint8"),
            "compute_dtype": text("torch.float32"),
        }
        numbers = {"nbits": bits, "group_size": group, "axis": axis}
        flags = {"view_as_float": as_float, "quant_scale": False, "quant_zero": False, "offload_meta": False}
        flags |= {"encoded_state_dict": True, "stores_quant_config": True, "channel_wise": True, "optimize": True}
        flags |= {"round_zero": False}
        parts |= {name: torch.tensor(number, dtype=torch.int32) for name, number in numbers.items()}
        parts |= {name: torch.tensor(int(flag), dtype=torch.uint8) for name, flag in flags.items()}
        return parts, ((codes - zero) * scale).reshape(weight.shape)

    return quantise


def config(bits: int = 4, group: int = 32, **more: Any) -> dict[str, Any]:
    settings = {"nbits": bits, "group_size": group, "axis": 1, "view_as_float": False}
    quant_config = {"weight_quant_params": settings, "scale_quant_params": None, "zero_quant_params": None}
    return {"quant_method": "hqq", "quant_config": quant_config, "skip_modules": ["lm_head"], **more}
