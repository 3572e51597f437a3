"""Weights packed as optimum-quanto packs them: rows of a group each, several rows in a byte."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.checkpoints.quantized.support import Packer


def unused() -> dict[str, Tensor]:
    """Scales of activations, which every layer has."""
    return {"input_scale": torch.tensor(1.0), "output_scale": torch.tensor(1.0)}


def packer(bits: int, group: int = 32, *, whole: bool = False) -> Packer:
    """Shifts are floats, or whole numbers."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        rows, top, per_byte = weight.reshape(-1, group), 2**bits - 1, 8 // bits
        low, high = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
        scale = (high - low) / top
        shift = (-low / scale).round() if whole else -low
        codes = (rows / scale + (shift if whole else shift / scale)).round().clamp(0, top)
        step = -(-len(codes) // per_byte)
        words = torch.zeros(step, group, dtype=torch.uint8)
        for place in range(per_byte):
            share = codes[place * step : (place + 1) * step].to(torch.uint8)
            words[: len(share)] |= share << bits * place
        value = (codes - shift) * scale if whole else codes * scale - shift
        parts = {"weight._data._data": words, "weight._scale": scale}
        parts["weight._shift"] = shift.to(torch.int8) if whole else shift
        return {**parts, **unused()}, value.reshape(weight.shape)

    return quantise


def eight_bits(dtype: torch.dtype = torch.int8) -> Packer:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale = weight.abs().amax(dim=1, keepdim=True) / (127 if dtype is torch.int8 else 448)
        codes = weight / scale
        codes = (codes.round() if dtype is torch.int8 else codes).to(dtype)
        return {"weight._data": codes, "weight._scale": scale, **unused()}, codes.float() * scale

    return quantise
