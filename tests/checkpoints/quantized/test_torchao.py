"""torchao's flattened tensors, under the configurations that transformers writes for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError
from tests.checkpoints.quantized.support import assert_refused, assert_same_loss, pack
from tests.checkpoints.quantized.torchao import config, enum, floats, int4, integers

UP = "model.layers.1.mlp.up_proj"


INTX = {
    "weight_dtype": enum("torch.dtype", "int4"),
    "mapping_type": enum("MappingType", "ASYMMETRIC"),
    "intx_packing_format": enum("IntxPackingFormat", "UNPACKED_TO_INT8"),
}
PLAIN = {"int4_packing_format": enum("Int4PackingFormat", "PLAIN"), "group_size": 32}
KINDS = {
    "int8": (integers(8), config("Int8WeightOnlyConfig", group_size=None), "int8-row"),
    "int8 in groups": (integers(8, 32), config("Int8WeightOnlyConfig"), "int8-g32"),
    "int8 inputs": (integers(8), config("Int8DynamicActivationInt8WeightConfig"), "int8-row"),
    "intx": (integers(4, 32, symmetric=False), config("IntxWeightOnlyConfig", **INTX), "int4-g32"),
    "float8": (floats(), config("Float8WeightOnlyConfig"), "float8_e4m3fn-row"),
    "float8 whole": (floats(whole=True), config("Float8WeightOnlyConfig"), "float8_e4m3fn-tensor"),
    "int4": (int4, config("Int4WeightOnlyConfig", **PLAIN), "int4-g32"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_floats(kind: str, tmp_path: Path) -> None:
    parts, settings, dtype = KINDS[kind]
    assert_same_loss(tmp_path, pack("llama", tmp_path, parts, settings))
    with open_checkpoint(tmp_path) as checkpoint:
        found = {tensor.name: tensor.dtype for tensor in checkpoint.info.tensors}[f"{UP}.weight"]
        assert bool(checkpoint.notes) == (kind == "int8 inputs")
    assert found == f"torchao-{dtype}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config(["Int8WeightOnlyConfig"]), "of version '2'; version 2 of Int8"),  # type: ignore[arg-type]
        (config("FqnToConfig"), "'FqnToConfig' of version '2'; version 2 of Int8WeightOnlyConfig"),
        (config("Int8WeightOnlyConfig", version=1), "'Int8WeightOnlyConfig' of version '1'"),
        ({**config("Int8WeightOnlyConfig"), "quant_type": "int8_weight_only"}, "quant_type 'int8_weight_only'"),
        (config("Float8WeightOnlyConfig"), "_weight_qdata is stored as int8, not as float8"),
        (config("Int4WeightOnlyConfig", int4_packing_format="tile_packed_to_4d"), "int4_packing_format 'tile_packed"),
        (config("Int4WeightOnlyConfig", **PLAIN), "its scales and zeros aren't groups"),
        ({**config("Int8WeightOnlyConfig"), "sparsity": "2:4"}, "has 'sparsity', which isn't known"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, integers(8), settings)
    assert_refused(tmp_path, message)


@pytest.mark.parametrize(
    ("kind", "name", "tensor", "message"),
    [
        ("intx", "_weight_qdata", None, "its _weight_qdata is missing"),
        ("intx", "_weight_scale", None, "its _weight_scale is missing"),
        ("intx", "_weight_zero_point", None, "its _weight_zero_point is missing"),
        ("intx", "_weight_zero_point", torch.zeros(96, 1, dtype=torch.int8), "zero_point isn't 96 × 2"),
        ("intx", "_weight_scale", torch.ones(96, 5), "_weight_scale is 96 × 5, which doesn't divide 96 × 64"),
        ("intx", "_weight_act_pre_scale", torch.ones(64), "no place for .*act_pre_scale"),
        ("float8", "_weight_zero_point", torch.zeros(96, 1), "8-bit floats have no zero point"),
        ("int4", "_weight_zero_point", None, "its _weight_zero_point is missing"),
        ("int4", "_weight_scale", torch.ones(3, 96), "its scales and zeros aren't groups"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    kind: str, name: str, tensor: Tensor | None, message: str, tmp_path: Path
) -> None:
    pack("llama", tmp_path, *KINDS[kind][:2])
    state = load_file(tmp_path / "model.safetensors")
    state.pop(f"{UP}.{name}", None)
    save_file(state if tensor is None else {**state, f"{UP}.{name}": tensor}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)
