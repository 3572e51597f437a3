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
from tests.checkpoints.quantized.bitsandbytes import NF4, UP, config, eight_bits, four_bits
from tests.checkpoints.quantized.support import Packer, assert_same_loss, pack

STATE = "weight.quant_state.bitsandbytes__nf4"


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
    [
        (eight_bits, 8, "int8-row", "8-bit per row"),
        (four_bits("nf4"), 4, "nf4-g64", None),
        (four_bits("nf4", table=NF4), 4, "nf4-g64", "nf4 in groups of 64"),
        (four_bits("nf4", table=NF4, nested=True), 4, "nf4-g64", "nf4 in groups of 64"),
    ],
)
def test_tensors_say_how_they_are_packed(
    packer: Packer, bits: int, dtype: str, grid: str | None, tmp_path: Path
) -> None:
    """Codes of a table of the file's own are on none of the grids."""
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
