"""Packed checkpoints through the commands: what is shown, what is audited, and how damage ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import peelaudit
from peelaudit.checkpoints import open_checkpoint
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.cli import main
from peelaudit.errors import CheckpointError, UnsupportedCheckpoint
from peelaudit.records import LowBit, LowBitSet
from tests.checkpoints import models
from tests.checkpoints.quantized import (
    auto_round,
    awq,
    bitsandbytes,
    compressed_tensors,
    float4,
    fp8,
    gptq,
    hqq,
    quanto,
    torchao,
)
from tests.checkpoints.quantized.support import assert_same_loss, configure, pack


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    pack("llama", tmp_path / "model", gptq.packer(4, 32), gptq.config(4, 32))
    return tmp_path / "model"


def test_inspect_shows_how_tensors_are_packed(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(packed), "--tensors"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "gptq-int4-g32+float32" in shown
    assert "4-bit in groups of 32" in shown
    assert "qweight" not in shown


SMALL = {"tokens": 1024, "seq_len": 16, "resamples": 100, "effort": "quick"}


def test_a_report_says_what_of_the_quantisation_is_left_out(tmp_path: Path) -> None:
    settings = compressed_tensors.config("int-quantized")
    settings["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True, "strategy": "token"}
    pack("llama", tmp_path / "model", compressed_tensors.packer("channel"), settings)
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 64, 4000).astype(np.uint16))
    report = peelaudit.audit(tmp_path / "model", tmp_path / "tokens.npy", **SMALL)
    assert any("the audit rounds the weights alone" in warning for warning in report.warnings)
    assert report.low_bit == LowBit((LowBitSet("8-bit per row", 14),), 14, held=True)


def test_references_of_nf4_are_nf4(tmp_path: Path) -> None:
    """The groups of 64 weights of the down projections, which have 96 inputs, are no groups of neighbouring inputs."""
    nf4 = bitsandbytes.four_bits("nf4", table=bitsandbytes.NF4)
    pack("llama", tmp_path / "model", nf4, bitsandbytes.config(4))
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 64, 4000).astype(np.uint16))
    report = peelaudit.audit(tmp_path / "model", tmp_path / "tokens.npy", **SMALL)
    assert report.low_bit == LowBit((LowBitSet("nf4 in groups of 64", 12),), 14, held=True)


PACKED = {
    "gptq": lambda folder: pack("llama", folder, gptq.packer(4, 32), gptq.config(4, 32)),
    "awq": lambda folder: pack("llama", folder, awq.packer(32), awq.config(32)),
    "compressed-tensors": lambda folder: pack(
        "llama", folder, compressed_tensors.packer("channel"), compressed_tensors.config("int-quantized")
    ),
    "nvfp4": lambda folder: pack(
        "llama",
        folder,
        float4.nvfp4("weight_packed", "weight_scale", "weight_global_scale", divides=True),
        compressed_tensors.config("nvfp4-pack-quantized", 4, "float"),
    ),
    "nf4": lambda folder: pack("llama", folder, bitsandbytes.four_bits("nf4"), bitsandbytes.config(4)),
    "auto-round": lambda folder: pack(
        "llama", folder, auto_round.packer(4, less_one=True), auto_round.config("auto_round:auto_gptq")
    ),
    "hqq": lambda folder: pack("llama", folder, hqq.packer(4), hqq.config()),
    "quanto": lambda folder: pack("llama", folder, quanto.packer(4), {"quant_method": "quanto", "weights": "int4"}),
    "torchao": lambda folder: pack("llama", folder, torchao.int4, torchao.config("Int4WeightOnlyConfig")),
    "fp8": lambda folder: pack("llama", folder, fp8.packer((32, 32)), fp8.config()),
    "modelopt": lambda folder: pack(
        "llama", folder, fp8.plain(), {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}
    ),
}
"""Packed tiny models by their method."""
LAYERS = ("model.layers.0.self_attn.q_proj.", "model.layers.0.input_layernorm.")
SILENT = ("g_idx", *(f".{part}" for part in ("group_size", "channel_wise", "optimize", "round_zero", "offload_meta")))
SILENT += (".unpack_view_dtype", ".compute_dtype", ".encoded_state_dict", ".stores_quant_config")
SILENT += (".quant_scale", ".quant_zero", ".input_scale", ".output_scale")
"""Parts that say nothing which others don't: groups that are in order, what HQQ remembers of its own doings, and
scales of activations that aren't rounded."""


@pytest.mark.parametrize("method", PACKED)
@pytest.mark.parametrize(
    "name", ["self_attn.q_proj.smooth", "mlp.act.scales", "self_attn.rotation", "mlp.up_proj.hada"]
)
def test_a_tensor_beside_the_packed_ones_is_refused_by_name(method: str, name: str, tmp_path: Path) -> None:
    PACKED[method](tmp_path)
    full = f"model.layers.1.{name}"
    state = {**load_file(tmp_path / "model.safetensors"), full: torch.ones(8)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=re.escape(full.rpartition(".")[0])):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("method", PACKED)
def test_a_key_that_is_not_known_is_refused_by_name(method: str, tmp_path: Path) -> None:
    PACKED[method](tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    configure(tmp_path, quantization_config={**settings, "online_rotation": "hadamard"})
    with pytest.raises(UnsupportedCheckpoint, match="has 'online_rotation', which isn't known") as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", PACKED)
def test_a_part_left_out_is_an_error_or_changes_nothing(method: str, tmp_path: Path) -> None:
    """Each of the tensors of one layer in turn, and of a norm."""
    model = PACKED[method](tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for name in [name for name in state if name.startswith(LAYERS)]:
        save_file({other: tensor for other, tensor in state.items() if other != name}, tmp_path / "model.safetensors")
        try:
            assert_same_loss(tmp_path, model)
        except CheckpointError:
            continue
        assert name.endswith(SILENT)


def other_values(value: Any) -> tuple[Any, ...]:
    """Other values of the same type, and of another."""
    match value:
        case bool():
            return (not value,)
        case int():
            return (2 * value, "many")
        case str():
            return ("other", 7)
        case list():
            return ([*value, *value], "one")
        case _:
            return (3,)


def changes(settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings with each of their values changed in turn, those of objects within them too."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", {**settings, key: inner}) for name, inner in changes(value))
        for other in () if key == "quant_method" else other_values(value):
            yield f"{key} {other!r}", {**settings, key: other}


@pytest.mark.parametrize("method", PACKED)
def test_a_changed_setting_is_an_error_or_changes_nothing(method: str, tmp_path: Path) -> None:
    """The tensors are as they were: what reads them otherwise must not fit them."""
    model = PACKED[method](tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    refused = []
    for name, changed in changes(settings):
        configure(tmp_path, quantization_config=changed)
        try:
            assert_same_loss(tmp_path, model)
        except CheckpointError:
            refused.append(name)
        except AssertionError:
            pytest.fail(f"{name} changes the loss without a word")
    assert refused or method == "nf4"  # whose tensors say all that is read


def test_the_parts_of_a_layer_may_be_in_two_shards(packed: Path) -> None:
    state = load_file(packed / "model.safetensors")
    (packed / "model.safetensors").unlink()
    with_scales = {name: tensor for name, tensor in state.items() if name.endswith("scales")}
    rest = {name: tensor for name, tensor in state.items() if name not in with_scales}
    shards = {"a.safetensors": with_scales, "b.safetensors": rest}
    for shard, tensors in shards.items():
        save_file(tensors, packed / shard)
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    (packed / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with open_checkpoint(packed) as checkpoint:
        weight = checkpoint.tensor(f"{gptq.UP}.weight")
    scale = state[f"{gptq.UP}.scales"].float()[state[f"{gptq.UP}.g_idx"].long()].T
    codes = weight / scale + 8
    torch.testing.assert_close(codes, codes.round().clamp(0, 15), atol=1e-4, rtol=0)
    assert len(codes.round().unique()) == 16


def test_damage_ends_in_one_sentence(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_file(packed / "model.safetensors")
    for name, tensor in (("qweight", torch.zeros(3, 96, dtype=torch.int32)), ("scales", torch.ones(2, 5))):
        save_file(whole | {f"{gptq.UP}.{name}": tensor}, packed / "model.safetensors")
        assert main(["inspect", str(packed)]) == 3
        error = capsys.readouterr().err
        assert error.startswith("peelaudit: error: ")
        assert error.count("\n") == 1
        assert "Traceback" not in error


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gptq", {"bits": 4}),
        ("awq", {"bits": 4}),
        ("compressed-tensors", {"format": "naive-quantized", "config_groups": {"a": {"weights": {}}}}),
        ("bitsandbytes", {"load_in_4bit": True}),
        ("fp8", {}),
        ("modelopt", {"quant_algo": "FP8"}),
    ],
)
def test_a_method_without_packed_weights_is_refused(method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    models.save(models.model("llama"), tmp_path)
    configure(tmp_path, quantization_config={"quant_method": method, **settings})
    with pytest.raises(UnsupportedCheckpoint, match=rf"packed by '{method}', but no layer has "):
        open_checkpoint(tmp_path)


def test_no_configuration_of_a_quantisation_is_a_float_checkpoint(tmp_path: Path) -> None:
    models.save(models.model("llama"), tmp_path)
    configure(tmp_path, quantization_config=None)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.info.dtype == "float32"


def test_each_read_is_anew_and_nothing_is_kept(packed: Path) -> None:
    with open_checkpoint(packed) as checkpoint:
        first, second = (checkpoint.tensor(f"{gptq.UP}.weight") for _ in range(2))
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()
    assert first.dtype is torch.float32


@pytest.mark.parametrize("scales", ["tensor", "row", "block", "mixed", "g128"])
def test_packed_types_are_read_back(scales: str) -> None:
    whole = PackedType("compressed-tensors", "float8_e4m3fn", scales)
    assert PackedType.parse(str(whole)) == whole
    assert whole.group == (128 if scales == "g128" else None)


@pytest.mark.parametrize("dtype", ["float32", "Q4_K", "gptq-int4", "gptq-int4-g0", "gptq-int4-g12x", ""])
def test_other_dtypes_are_none(dtype: str) -> None:
    assert PackedType.parse(dtype) is None
