"""modelopt's 8-bit and 4-bit floats, their settings in config.json or beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError
from tests.checkpoints import models
from tests.checkpoints.quantized.float4 import nvfp4
from tests.checkpoints.quantized.fp8 import UP, plain
from tests.checkpoints.quantized.support import Packer, assert_refused, assert_same_loss, configure, pack

NVFP4 = nvfp4("weight", "weight_scale", "weight_scale_2", divides=False)
PRODUCER = {"name": "modelopt", "version": "0.33.0"}


def config(algorithm: str, **more: Any) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head"], "producer": PRODUCER, **more}


def beside(folder: Path, **details: Any) -> None:
    (folder / "hf_quant_config.json").write_text(json.dumps({"producer": PRODUCER, "quantization": details}))


KINDS = [
    (plain(), "FP8", "float8_e4m3fn-tensor"),
    (plain(rows=True, shape=(-1,)), "FP8_PER_CHANNEL_PER_TOKEN", "float8_e4m3fn-row"),
    (NVFP4, "NVFP4", "fp4-g16"),
]


@pytest.mark.parametrize(("parts", "algorithm", "dtype"), KINDS)
def test_the_loss_is_that_of_the_floats(parts: Packer, algorithm: str, dtype: str, tmp_path: Path) -> None:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        found, value = parts(weight)
        return {**found, "input_scale": torch.tensor(0.25)}, value

    assert_same_loss(tmp_path, pack("llama", tmp_path, quantise, config(algorithm)))
    with open_checkpoint(tmp_path) as checkpoint:
        found = {tensor.name: tensor.dtype for tensor in checkpoint.info.tensors}[f"{UP}.weight"]
        assert "the audit rounds the weights alone" in checkpoint.notes[0]
    assert found == f"modelopt-{dtype}"


@pytest.mark.parametrize(("parts", "algorithm", "dtype"), KINDS)
def test_settings_beside_the_configuration(parts: Packer, algorithm: str, dtype: str, tmp_path: Path) -> None:
    model = pack("llama", tmp_path, parts, {})
    configure(tmp_path, quantization_config=None)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
    beside(tmp_path, quant_algo=algorithm, kv_cache_quant_algo=None, exclude_modules=["lm_head"])
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        sha256 = checkpoint.info.sha256
    beside(tmp_path, quant_algo=algorithm, kv_cache_quant_algo="FP8")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.info.sha256 != sha256
    beside(tmp_path, quant_algo="W4A16_AWQ", group_size=128)
    with pytest.raises(CheckpointError, match=r"hf_quant_config\.json'.*quant_algo 'W4A16_AWQ'"):
        open_checkpoint(tmp_path)


def test_a_file_that_has_only_a_rounded_cache_is_no_packed_one(tmp_path: Path) -> None:
    models.save(models.model("llama"), tmp_path)
    beside(tmp_path, quant_algo=None, kv_cache_quant_algo="FP8")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.info.dtype == "float32"


def test_layers_of_two_kinds(tmp_path: Path) -> None:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return (NVFP4 if weight.shape[0] == 96 else plain())(weight)

    layers = {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "NVFP4", "group_size": 16}}
    settings = config("MIXED_PRECISION", quantized_layers=layers)
    assert_same_loss(tmp_path, pack("llama", tmp_path, quantise, settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_algo": "NVFP4_AWQ"}, "quant_algo 'NVFP4_AWQ'"),
        ({"quant_algo": None}, "quant_algo 'None'"),
        ({"quant_algo": "FP8"}, "its weight is stored as uint8, not as float8_e4m3fn"),
        ({"quant_algo": "MIXED_PRECISION"}, "quantized_layers of other kinds"),
        ({"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "W8A16"}}}, "of other kinds"),
        ({"group_size": 32}, "group_size '32'"),
        ({"pre_quant_scale": True}, "pre_quant_scale, which isn't read"),
        ({"svd_rank": 4}, "has 'svd_rank', which isn't known"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, NVFP4, {**config("NVFP4"), **settings})
    assert_refused(tmp_path, message)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("weight_scale", None, "its weight_scale is missing"),
        ("weight_scale_2", None, "its weight_scale_2 is missing"),
        ("weight", None, "is missing"),
        ("weight_scale", torch.ones(96, 4), "weight_scale is stored as float32"),
        ("weight_scale", torch.ones(96, 2).to(torch.float8_e4m3fn), r"weight_scale has the shape \[96, 2\]"),
        ("weight_scale_2", torch.ones(2), "weight_scale_2 isn't one float"),
        ("pre_quant_scale", torch.ones(64), "no place for .*pre_quant_scale"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, tensor: Tensor | None, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, NVFP4, config("NVFP4"))
    state = load_file(tmp_path / "model.safetensors")
    state.pop(f"{UP}.{name}", None)
    if tensor is not None:
        state[f"{UP}.{name}"] = tensor
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message), open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_weights()
