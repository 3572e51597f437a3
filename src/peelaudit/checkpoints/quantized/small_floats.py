"""Floats of 4 and 8 bits: their values, and scales that blocks of them share (OCP Microscaling Formats, v1.0)."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized.method import StoredModule
from peelaudit.checkpoints.store import FLOATS

__all__ = ["EXPONENTS", "FLOAT8", "Blocks", "e2m1", "e8m0", "row_or_tensor"]

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
EXPONENTS = ("uint8", "float8_e8m0fnu")
"""What a scale is stored as that is a power of 2: the exponent alone, in a byte (e8m0)."""

_SIZES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the lower three bits of a 4-bit float (e2m1) mean; the highest is its sign."""
_BIAS, _NAN = 127, 255


def e2m1(packed: Tensor) -> Tensor:
    """The values of bytes of two codes each, the lower four bits first: [..., 2 n] float32 of [..., n] uint8."""
    table = torch.tensor([sign * size for sign in (1.0, -1.0) for size in _SIZES])
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    return table[codes.int()]


def e8m0(exponents: Tensor) -> Tensor:
    """The powers of 2 whose exponents these bytes are, float32; 255 is no number."""
    values = torch.exp2(exponents.float() - _BIAS)
    return torch.where(exponents == _NAN, math.nan, values)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Scales of a matrix, one for each block of `rows` outputs and `columns` inputs; the last ones may be cut off."""

    part: str
    rows: int
    columns: int

    def sharing(self, module: StoredModule, outputs: int, inputs: int, dtypes: Collection[str] = tuple(FLOATS)) -> str:
        """Which weights share a scale, as a `PackedType` says it.

        Raises:
            MismatchedWeights: there aren't as many scales as blocks, or they have another dtype.
        """
        shape = module.shape(self.part, module.rank(self.part, 2), dtypes)
        blocks = math.ceil(outputs / self.rows), math.ceil(inputs / self.columns)
        if (*shape, 1, 1)[:2] != blocks:
            raise module.mismatched(
                f"its {self.part} has the shape {list(shape)}, for {outputs} × {inputs} weights in blocks of"
                f" {self.rows} × {self.columns}"
            )
        if blocks == (1, 1):
            return "tensor"
        if self.rows > 1:
            return "block"
        return "row" if blocks[1] == 1 else f"g{self.columns}"

    def scales(self, module: StoredModule, outputs: int, inputs: int) -> Tensor:
        """The scale of each weight, [outputs or 1, inputs or 1] float32."""
        stored = module.read(self.part)
        stored = stored if stored.ndim > 1 else stored.reshape(-1, 1)
        exponents = module.tensors[self.part].dtype in EXPONENTS
        scales = e8m0(stored.view(torch.uint8)) if exponents else stored.float()
        if len(scales) > 1:
            scales = scales.repeat_interleave(self.rows, dim=0)[:outputs]
        return scales if scales.shape[1] == 1 else scales.repeat_interleave(self.columns, dim=1)[:, :inputs]


def row_or_tensor(module: StoredModule, part: str, outputs: int, inputs: int) -> Blocks:
    """Scales of each output where there is more than one, else of the whole matrix."""
    info = module.tensors.get(part)
    return Blocks(part, 1 if info and info.shape and info.shape[0] > 1 else outputs, inputs)
