"""HQQ's packed codes, in every number of bits and along both axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError
from peelaudit.network.weights import check_weights
from peelaudit.records import ZeroPoint
from tests.checkpoints.quantized.hqq import PACKINGS, config, packer, text
from tests.checkpoints.quantized.support import assert_same_loss, pack

UP = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize("bits", PACKINGS)
@pytest.mark.parametrize(("group", "axis"), [(32, 1), (64, 1), (32, 0)])
def test_the_loss_is_that_of_the_floats(bits: int, group: int, axis: int, tmp_path: Path) -> None:
    model = pack("llama", tmp_path, packer(bits, group=group, axis=axis), config(bits, group))
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        assert torch.equal(checkpoint.tensor(f"{UP}.weight"), model.get_parameter(f"{UP}.weight"))


def test_codes_under_a_floats_dtype(tmp_path: Path) -> None:
    assert_same_loss(tmp_path, pack("llama", tmp_path, packer(4, as_float=True), config()))


@pytest.mark.parametrize(
    ("group", "axis", "dtype", "grid"),
    [
        (32, 1, "int4-g32", "4-bit in groups of 32"),
        (64, 1, "int4-row", "4-bit per row"),
        (32, 0, "int4-block", None),
    ],
)
def test_tensors_say_how_they_are_packed(group: int, axis: int, dtype: str, grid: str | None, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4, group=group, axis=axis), config(4, group))
    with open_checkpoint(tmp_path) as checkpoint:
        found = {tensor.name: tensor for tensor in check_weights(checkpoint).info().tensors}[f"{UP}.weight"]
    assert found.dtype == f"hqq-{dtype}"
    assert (found.grid.name if found.grid else None) == grid
    assert found.grid is None or found.grid.zero is ZeroPoint.FREE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_config": {"scale_quant_params": {"nbits": 8}}}, "scales or zeros that are quantised themselves"),
        ({"rotate": True}, "has 'rotate', which isn't known"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4), config(**settings))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def number(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.int32)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("W_q", None, "its W_q is missing"),
        ("scale", None, "its scale is missing"),
        ("zero", None, "its zero is missing"),
        ("shape", None, "its shape is missing"),
        ("nbits", None, "its nbits is missing"),
        ("axis", None, "its axis is missing"),
        ("packing", None, "its packing is missing"),
        ("view_as_float", None, "its view_as_float is missing"),
        ("nbits", number(2), "its packing is '4bit_u8', for codes of 2 bits"),
        ("packing", text("2bit_u8"), "its packing is '2bit_u8', for codes of 4 bits"),
        ("packing", torch.zeros(100, dtype=torch.uint8), "its packing has 100 bytes"),
        ("axis", number(0), "its scale isn't 1 × 32"),
        ("axis", number(2), "its axis is 2"),
        ("quant_scale", torch.tensor(1, dtype=torch.uint8), "its quant_scale is set"),
        ("view_as_float", torch.tensor(1, dtype=torch.uint8), "which its view_as_float contradicts"),
        ("shape", torch.tensor([96, 65]), "its W_q doesn't hold"),
        ("shape", torch.tensor([64, 96]), "is 64 × 96, but the configuration makes it 96 × 64"),
        ("shape", torch.tensor([-1, 4]), r"its shape is '\[-1, 4\]'"),
        ("scale", torch.ones(192, 2), "its scale isn't 192 × 1"),
        ("W_q", torch.zeros(96, 31, dtype=torch.uint8), "its W_q doesn't hold 6144 codes of 4 bits"),
        ("lora", torch.ones(3), "no place for"),
        ("zero", torch.full((192, 1), torch.nan), "NaN or Inf"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, tensor: Tensor | None, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4), config())
    state = load_file(tmp_path / "model.safetensors")
    state.pop(f"{UP}.{name}", None)
    if tensor is not None:
        state[f"{UP}.{name}"] = tensor
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message), open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_weights()
