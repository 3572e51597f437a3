"""AutoRound's settings over GPTQ's and AWQ's tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.quantized import awq
from tests.checkpoints.quantized.auto_round import config, packer
from tests.checkpoints.quantized.support import Packer, assert_refused, assert_same_loss, pack, pack_each


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("packing", "less_one"),
    [
        ("auto_round:auto_gptq", True),
        ("auto_round:gptq", True),
        (None, True),
        ("auto_round:gptqmodel", False),
        ("auto_round", False),
    ],
)
def test_gptq_tensors(packing: str | None, less_one: bool, bits: int, tmp_path: Path) -> None:
    model = pack("llama", tmp_path, packer(bits, less_one=less_one), config(packing, bits=bits))
    assert_same_loss(tmp_path, model)


@pytest.mark.parametrize("packing", ["auto_round:auto_awq", "auto_round:awq"])
def test_awq_tensors(packing: str, tmp_path: Path) -> None:
    assert_same_loss(tmp_path, pack("llama", tmp_path, awq.packer(32), config(packing)))


def test_the_older_name(tmp_path: Path) -> None:
    settings = config("auto_round:auto_gptq", quant_method="intel/auto-round")
    assert_same_loss(tmp_path, pack("llama", tmp_path, packer(4, less_one=True), settings))


def layers_of(bits: int) -> dict[str, dict[str, Any]]:
    """Its settings of two layers: one of another width, and one that is left as floats."""
    return {
        "model.layers.0.mlp.down_proj": {"bits": bits, "group_size": 32, "sym": False, "data_type": "int"},
        "model.layers.1.mlp.down_proj": {"bits": 16, "data_type": "float", "act_bits": 16},
    }


@pytest.mark.parametrize(("packing", "less_one"), [("auto_round:auto_gptq", True), ("auto_round", False)])
def test_layers_of_several_widths(packing: str, less_one: bool, tmp_path: Path) -> None:
    def packers(name: str) -> Packer:
        if name == "model.layers.1.mlp.down_proj":
            return lambda weight: ({"weight": weight}, weight)
        return packer(8 if name == "model.layers.0.mlp.down_proj" else 4, less_one=less_one)

    assert_same_loss(tmp_path, pack_each("llama", tmp_path, packers, config(packing, extra_config=layers_of(8))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing_format": "auto_round:fp8_static"}, "packing_format 'auto_round:fp8_static'"),
        ({"packing_format": "auto_round:auto_awq"}, "its scales are"),
        ({"act_bits": 8}, "act_bits '8'"),
        ({"data_type": "mx_fp4"}, "data_type 'mx_fp4'"),
        ({"bits": 3}, "its scales are"),
        ({"group_size": 64}, "its scales are"),
        ({"packing_format": "auto_round:awq", "extra_config": layers_of(8)}, "bits '8'"),
        ({"extra_config": {"lm_head": {"bits": 4, "data_type": "mx_fp"}}}, "data_type 'mx_fp'"),
        ({"extra_config": {"lm_head": {"bits": 8, "act_bits": 8}}}, "act_bits '8'"),
        ({"extra_config": ["lm_head"]}, "extra_config isn't a JSON object"),
        ({"rotation_config": {"kind": "hadamard"}}, "has 'rotation_config', which isn't known"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4, less_one=True), config("auto_round:auto_gptq", **settings))
    assert_refused(tmp_path, message)
