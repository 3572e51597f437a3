"""Weights as 4-bit floats, nibble by nibble: NVFP4's groups of 16 and MXFP4's of 32."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.checkpoints.quantized.support import Packer

VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SIGNED = torch.tensor([*VALUES, *(-value for value in VALUES)])


def packed_nibbles(codes: Tensor) -> Tensor:
    """Pairs of neighbouring codes in a byte, the first in its lower half."""
    pairs = codes.to(torch.uint8).reshape(*codes.shape[:-1], -1, 2)
    return pairs[..., 0] + 16 * pairs[..., 1]


def grouped(weight: Tensor, group: int, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codes and what they stand for, of the weight's shape; `scale` has one number a group."""
    rows = weight.reshape(-1, group)
    codes = (rows[..., None] / scale.reshape(-1, 1, 1) - SIGNED).abs().argmin(dim=-1)
    return codes.reshape(weight.shape), (SIGNED[codes] * scale.reshape(-1, 1)).reshape(weight.shape)


def largest(weight: Tensor, group: int) -> Tensor:
    return weight.reshape(*weight.shape[:-1], -1, group).abs().amax(dim=-1)


def nvfp4(codes: str, scales: str, outer: str, *, divides: bool) -> Packer:
    """Under these names; the outer scale is multiplied by, or divided by."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        whole = weight.abs().max() / (448 * 6)
        scale = (largest(weight, 16) / 6 / whole).to(torch.float8_e4m3fn)
        found, value = grouped(weight, 16, scale.float() * whole)
        stored = (1 / whole).reshape(1) if divides else whole
        return {codes: packed_nibbles(found), scales: scale, outer: stored}, value

    return quantise


def mxfp4(codes: str = "weight_packed", scales: str = "weight_scale") -> Packer:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        exponent = (largest(weight, 32) / 6).log2().ceil()
        found, value = grouped(weight, 32, 2.0**exponent)
        return {codes: packed_nibbles(found), scales: (exponent + 127).to(torch.uint8)}, value

    return quantise
