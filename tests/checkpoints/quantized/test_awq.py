"""AWQ's 4-bit integers in the order of its gemm kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError, MalformedCheckpoint, UnsupportedCheckpoint
from peelaudit.network.weights import check_weights
from tests.checkpoints.quantized.awq import UP, config, packer
from tests.checkpoints.quantized.support import assert_same_loss, pack


@pytest.mark.parametrize(("group", "grid"), [(32, "4-bit in groups of 32"), (-1, "4-bit per row")])
def test_the_loss_is_transformers_and_the_grid_the_configurations(group: int, grid: str, tmp_path: Path) -> None:
    model = pack("llama", tmp_path, packer(group), config(group))
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        found = {tensor.name: tensor.grid for tensor in check_weights(checkpoint).info().tensors}
        assert torch.equal(checkpoint.tensor(f"{UP}.weight"), model.get_parameter(f"{UP}.weight"))
    assert found[f"{UP}.weight"].name == grid


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 3}, "bits '3': only 4 can be read"),
        ({"version": "gemv"}, "version 'gemv': only gemm"),
        ({"checkpoint_format": "gemv_fast"}, "checkpoint_format 'gemv_fast': only gemm"),
        ({"backend": "llm-awq"}, "the backend llm-awq"),
        ({"group_size": 2.5}, "group_size is '2.5'"),
        ({"group_size": 64}, "in groups of 64"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(32), config(**settings))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert isinstance(caught.value, UnsupportedCheckpoint | MalformedCheckpoint) or "scales are" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (f"{UP}.scales", None, "its scales is missing"),
        (f"{UP}.qzeros", None, "its qzeros is missing"),
        (f"{UP}.qweight", torch.zeros(63, 12, dtype=torch.int32), "96 outputs and 63 inputs in groups of 32"),
        (f"{UP}.qweight", torch.zeros(32, 12, dtype=torch.int32), "96 outputs and 32 inputs"),
        (f"{UP}.qzeros", torch.zeros(2, 11, dtype=torch.int32), "qzeros aren't 2 × 12"),
        ("model.layers.0.mlp.act.scales", torch.ones(96), "'model.layers.0.mlp.act' can't be read: its qweight"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, tensor: Tensor | None, message: str, tmp_path: Path) -> None:
    """The last is a scale of an activation, with which the network would be another one."""
    pack("llama", tmp_path, packer(32), config())
    state = load_file(tmp_path / "model.safetensors")
    state.pop(name, None)
    save_file(state if tensor is None else {**state, name: tensor}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)
