"""optimum-quanto's tensors, described by config.json or by a map beside it."""

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
from tests.checkpoints.quantized.quanto import eight_bits, packer
from tests.checkpoints.quantized.support import Packer, assert_refused, assert_same_loss, configure, pack

UP = "model.layers.1.mlp.up_proj"
KINDS = {
    "int8": (eight_bits(), "int8", "int8-row"),
    "float8": (eight_bits(torch.float8_e4m3fn), "float8", "float8_e4m3fn-row"),
    "int4": (packer(4), "int4", "int4-g32"),
    "int4 whole": (packer(4, whole=True), "int4", "int4-g32"),
    "int2": (packer(2), "int2", "int2-g32"),
}


def config(weights: str = "int4", **more: Any) -> dict[str, Any]:
    return {"quant_method": "quanto", "weights": weights, "activations": None, **more}


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_floats(kind: str, tmp_path: Path) -> None:
    parts, weights, dtype = KINDS[kind]
    model = pack("llama", tmp_path, parts, config(weights))
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        assert torch.equal(checkpoint.tensor(f"{UP}.weight"), model.get_parameter(f"{UP}.weight"))
        assert {tensor.name: tensor.dtype for tensor in checkpoint.info.tensors}[f"{UP}.weight"] == f"quanto-{dtype}"


@pytest.mark.parametrize("activations", ["none", "qint8"])
def test_a_map_beside_the_configuration(activations: str, tmp_path: Path) -> None:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return (packer(4) if weight.shape[0] == 96 else eight_bits())(weight)

    model = pack("llama", tmp_path, quantise, {})
    configure(tmp_path, quantization_config=None)
    layers = {name: {"weights": kind, "activations": activations} for name, kind in (("a", "qint4"), ("b", "qint8"))}
    (tmp_path / "quanto_qmap.json").write_text(json.dumps(layers))
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        assert bool(checkpoint.notes) == (activations == "qint8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config("int3"), "weights 'int3'"),
        (config("int2"), "its weight is 96 × 32 bytes, for 192 rows of codes"),
        (config("int8"), "its weight is"),
        (config(layers={"a": 3}), "a layer isn't described"),
        (config(layers={"a": {"weights": "qint4", "axis": 1}}), "has 'axis', which isn't known"),
        (config(optimizer="hqq"), "has 'optimizer', which isn't known"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4), settings)
    assert_refused(tmp_path, message)


@pytest.mark.parametrize(
    ("parts", "name", "tensor", "message"),
    [
        (packer(4), "weight._data._data", None, "its weight._data is missing"),
        (packer(4), "weight._scale", None, "its weight._scale is missing"),
        (packer(4), "weight._shift", None, "its weight._shift is missing"),
        (packer(4), "weight._shift", torch.zeros(191, 1), "its weight._shift isn't 192 × 1"),
        (packer(4), "weight._scale", torch.ones(100, 1), "is 96 × 32 bytes, for 100 rows"),
        (eight_bits(), "weight._scale", torch.ones(1, 96), "aren't those of 96 × 64 weights of 8 bits"),
        (eight_bits(), "weight._shift", torch.ones(96, 1), "aren't those of 96 × 64 weights of 8 bits"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    parts: Packer, name: str, tensor: Tensor | None, message: str, tmp_path: Path
) -> None:
    pack("llama", tmp_path, parts, config("int8" if "8 bits" in message else "int4"))
    state = load_file(tmp_path / "model.safetensors")
    state.pop(f"{UP}.{name}", None)
    save_file(state if tensor is None else {**state, f"{UP}.{name}": tensor}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)
