"""bitsandbytes in 8 and in 4 bits, its scales plain or themselves in 8 bits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError
from peelaudit.network.weights import check_weights
from tests.checkpoints.quantized.support import Packer, assert_same_loss, pack

UP = "model.layers.1.mlp.up_proj"
STATE = "weight.quant_state.bitsandbytes__nf4"
TABLES = {
    "nf4": torch.tensor([math.tanh((code - 7) / 5) if code != 7 else 0.0 for code in range(16)]),
    "fp4": torch.cat([sign * torch.tensor([0, 0.0052, 2 / 3, 1, 1 / 3, 0.5, 1 / 6, 0.25]) for sign in (1, -1)]),
}
"""What codes mean: the file says so itself, and any table will do."""


def eight_bits(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    scale = weight.abs().amax(dim=1)
    codes = (weight / scale[:, None] * 127).round()
    parts = {"weight": codes.to(torch.int8), "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, codes * (scale[:, None] / 127)


def nearest(values: Tensor, table: Tensor) -> Tensor:
    return (values[..., None] - table).abs().argmin(dim=-1)


def four_bits(kind: str, *, block: int = 64, nested: bool = False, storage: torch.dtype = torch.uint8) -> Packer:
    table = TABLES[kind]

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


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("packer", "bits"),
    [
        (eight_bits, 8),
        (four_bits("nf4"), 4),
        (four_bits("fp4"), 4),
        (four_bits("nf4", nested=True), 4),
        (four_bits("fp4", nested=True, block=32), 4),
        (four_bits("nf4", storage=torch.bfloat16), 4),
    ],
)
def test_the_loss_is_transformers(packer: Packer, bits: int, family: str, tmp_path: Path) -> None:
    model = pack(family, tmp_path, packer, config(bits))
    assert_same_loss(tmp_path, model)
    names = [name for name, weight in model.named_parameters() if weight.ndim == 2]
    with open_checkpoint(tmp_path) as checkpoint:
        for name in names:
            torch.testing.assert_close(checkpoint.tensor(name), model.get_parameter(name).detach(), rtol=1e-6, atol=0)


def test_the_first_files_named_no_method(tmp_path: Path) -> None:
    assert_same_loss(tmp_path, pack("llama", tmp_path, eight_bits, {"load_in_8bit": True}))


@pytest.mark.parametrize(
    ("packer", "bits", "dtype", "grid"),
    [(eight_bits, 8, "int8-row", "8-bit per row"), (four_bits("nf4"), 4, "nf4-g64", None)],
)
def test_tensors_say_how_they_are_packed(
    packer: Packer, bits: int, dtype: str, grid: str | None, tmp_path: Path
) -> None:
    """Codes of a table aren't evenly spaced: they are on none of the grids."""
    pack("llama", tmp_path, packer, config(bits))
    with open_checkpoint(tmp_path) as checkpoint:
        tensors = {tensor.name: tensor for tensor in check_weights(checkpoint).info().tensors}
        assert bool(checkpoint.notes) == (bits == 8)
    found = tensors[f"{UP}.weight"]
    assert (found.shape, found.dtype) == ((96, 64), f"bitsandbytes-{dtype}")
    assert (found.grid.name if found.grid else None) == grid
    stored = load_file(tmp_path / "model.safetensors")
    assert found.bytes == sum(part.nbytes for name, part in stored.items() if name.startswith(UP))


def state(**changes: Any) -> Tensor:
    found = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [96, 64], "nested_blocksize": 16}
    return torch.tensor([*json.dumps({**found, "nested_offset": 0.1, **changes}).encode()], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("packer", "name", "tensor", "message"),
    [
        (eight_bits, "SCB", None, "its SCB is missing"),
        (eight_bits, "SCB", torch.ones(95), "SCB isn't one scale for each of 96 outputs"),
        (eight_bits, "weight", None, "its weight is missing"),
        (eight_bits, "weight_format", torch.tensor(2, dtype=torch.uint8), "weight_format isn't 0"),
        (eight_bits, "weight_format", torch.zeros(3, dtype=torch.uint8), "weight_format isn't one number"),
        (four_bits("nf4"), STATE, None, "its weight.quant_state is missing"),
        (four_bits("nf4"), STATE, torch.zeros(9, dtype=torch.uint8), "quant_state of .* isn't valid JSON"),
        (four_bits("nf4"), STATE, torch.zeros(1 << 17, dtype=torch.uint8), "quant_state isn't JSON as bytes"),
        (four_bits("nf4"), STATE, state(quant_type="fp4"), "quant_state isn't one of nf4"),
        (four_bits("nf4"), STATE, state(shape=[2**40, 2**40]), "its weight doesn't hold"),
        (four_bits("nf4"), STATE, state(shape=[96]), r"the shape in its quant_state is '\[96\]'"),
        (four_bits("nf4"), STATE, state(blocksize=0), "the blocksize in its quant_state is '0'"),
        (four_bits("nf4"), STATE, state(blocksize=32), "weight.absmax has 96 numbers, not 192"),
        (four_bits("nf4"), "weight.quant_map", torch.ones(8), "weight.quant_map has 8 numbers, not 16"),
        (four_bits("nf4"), "weight.quant_map", None, "its weight.quant_map is missing"),
        (four_bits("nf4"), "weight.absmax", torch.ones(96, dtype=torch.uint8), "weight.absmax is stored as uint8"),
        (four_bits("nf4"), "weight", torch.zeros(10, 1, dtype=torch.uint8), "weight doesn't hold 96 × 64 codes"),
        (four_bits("nf4", nested=True), "weight.nested_quant_map", None, "its weight.nested_quant_map is missing"),
        (four_bits("nf4", nested=True), "weight.nested_absmax", torch.ones(5), "nested_absmax has 5 numbers, not 6"),
        (four_bits("nf4", nested=True), STATE, state(nested_offset="x"), "the nested_offset in its quant_state is 'x'"),
        (four_bits("nf4", nested=True), STATE, state(nested_offset=math.nan), "NaN or Inf"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    packer: Packer, name: str, tensor: Tensor | None, message: str, tmp_path: Path
) -> None:
    pack("llama", tmp_path, packer, config(8 if packer is eight_bits else 4))
    stored = load_file(tmp_path / "model.safetensors")
    stored.pop(f"{UP}.{name}", None)
    if tensor is not None:
        stored[f"{UP}.{name}"] = tensor
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught, open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_weights()
    assert "\n" not in str(caught.value)
