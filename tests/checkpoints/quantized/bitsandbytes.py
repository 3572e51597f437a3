"""Weights packed as bitsandbytes packs them, in 8 and in 4 bits."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from peelaudit.network.lowbit.tables import Table
from peelaudit.records import GridKind, ScaleLayout
from tests.checkpoints.quantized.support import Packer

UP = "model.layers.1.mlp.up_proj"
TABLES = {
    "nf4": torch.tensor([math.tanh((code - 7) / 5) if code != 7 else 0.0 for code in range(16)]),
    "fp4": torch.cat([sign * torch.tensor([0, 0.0052, 2 / 3, 1, 1 / 3, 0.5, 1 / 6, 0.25]) for sign in (1, -1)]),
}
"""What codes mean: the file says so itself, and any table will do."""
NF4 = Table(ScaleLayout.TENSOR, None, GridKind.NF4).units(torch.arange(16.0), torch.zeros(()))


def eight_bits(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    scale = weight.abs().amax(dim=1)
    codes = (weight / scale[:, None] * 127).round()
    parts = {"weight": codes.to(torch.int8), "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, codes * (scale[:, None] / 127)


def nearest(values: Tensor, table: Tensor) -> Tensor:
    return (values[..., None] - table).abs().argmin(dim=-1)


def four_bits(
    kind: str,
    *,
    block: int = 64,
    nested: bool = False,
    storage: torch.dtype = torch.uint8,
    table: Tensor | None = None,
) -> Packer:
    table = TABLES[kind] if table is None else table

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        blocks = weight.reshape(-1, block)
        scale = blocks.abs().amax(dim=1)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "float32", "shape": [*weight.shape]}
        parts: dict[str, Tensor] = {}
        if nested:
            outer_table, offset = torch.linspace(-1, 1, 256), float(scale.mean())
            outer = torch.stack([part.abs().max() for part in (scale - offset).split(16)])
            codes = nearest((scale - offset) / outer.repeat_interleave(16)[: len(scale)], outer_table)
            scale = outer_table[codes] * outer.repeat_interleave(16)[: len(scale)] + offset
            parts |= {"weight.absmax": codes.to(torch.uint8), "weight.nested_absmax": outer}
            parts |= {"weight.nested_quant_map": outer_table}
            state |= {"nested_blocksize": 16, "nested_dtype": "float32", "nested_offset": offset}
        else:
            parts["weight.absmax"] = scale
        codes = nearest(blocks / scale[:, None], table)
        bytes_ = (codes.reshape(-1)[0::2] * 16 + codes.reshape(-1)[1::2]).to(torch.uint8)
        parts |= {"weight": bytes_.view(storage)[:, None], "weight.quant_map": table.clone()}
        raw = json.dumps(state).encode()
        parts[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor([*raw], dtype=torch.uint8)
        return parts, (table[codes] * scale[:, None]).reshape(weight.shape)

    return quantise


def config(bits: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True, **more}
