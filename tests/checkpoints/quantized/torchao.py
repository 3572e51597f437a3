"""Weights packed as torchao's tensors flattened, and the configurations that transformers writes for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.checkpoints.quantized.float4 import packed_nibbles
from tests.checkpoints.quantized.support import Packer


def integers(bits: int, group: int | None = None, *, symmetric: bool = True) -> Packer:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        groups, half = weight.reshape(len(weight), -1, group or weight.shape[1]), 2 ** (bits - 1)
        low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
        scale = torch.maximum(-low, high) / (half - 0.5) if symmetric else (high - low) / (2 * half - 1)
        zero = torch.zeros_like(low) if symmetric else (-half - low / scale).round().clamp(-half, half - 1)
        codes = (groups / scale + zero).round().clamp(-half, half - 1)
        parts = {"_weight_qdata": codes.reshape(weight.shape).to(torch.int8), "_weight_scale": scale[..., 0]}
        parts["_weight_zero_point"] = zero[..., 0].to(torch.int8)
        return parts, ((codes - zero) * scale).reshape(weight.shape)

    return quantise


def floats(*, whole: bool = False) -> Packer:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        largest = weight.abs().max().reshape(1, 1) if whole else weight.abs().amax(dim=1, keepdim=True)
        codes = (weight / (largest / 448)).to(torch.float8_e4m3fn)
        return {"_weight_qdata": codes, "_weight_scale": largest / 448}, codes.float() * (largest / 448)

    return quantise


def int4(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Signed codes, and zeros that are what 0 stands for, as FBGEMM's kernels have them."""
    groups = weight.reshape(len(weight), -1, 32)
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    scale = (high - low) / 15
    codes, zero = ((groups - low) / scale).round() - 8, low + 8 * scale
    nibbles = packed_nibbles((codes % 16).reshape(weight.shape)).view(torch.int8)
    parts = {"_weight_qdata": nibbles, "_weight_scale": scale[..., 0].T, "_weight_zero_point": zero[..., 0].T}
    return parts, (codes * scale + zero).reshape(weight.shape)


def config(name: str, *, version: int = 2, **values: Any) -> dict[str, Any]:
    chosen = {"_type": name, "_version": version, "_data": {"set_inductor_config": True, **values}}
    more = {"include_input_output_embeddings": False, "untie_embedding_weights": False}
    return {"quant_method": "torchao", "quant_type": {"default": chosen}, "modules_to_not_convert": None, **more}


def enum(kind: str, value: str) -> dict[str, str]:
    return {"_type": kind, "_data": value}
