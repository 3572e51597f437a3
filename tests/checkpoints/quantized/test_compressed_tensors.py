"""compressed-tensors: packed and plain codes, with every way of sharing a scale."""

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
from tests.checkpoints.quantized import fp8
from tests.checkpoints.quantized.compressed_tensors import BLOCKS, UP, config, packer
from tests.checkpoints.quantized.float4 import mxfp4, nvfp4
from tests.checkpoints.quantized.support import Packer, assert_refused, assert_same_loss, pack, pack_each, packed_bits


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("strategy", "sym"), [("group", True), ("group", False), ("channel", False)])
def test_packed_integers_give_transformers_loss(bits: int, strategy: str, sym: bool, tmp_path: Path) -> None:
    parts = packer(strategy, bits, sym=sym, packed=True)
    model = pack("llama", tmp_path, parts, config("pack-quantized", bits))
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        assert torch.equal(checkpoint.tensor(f"{UP}.weight"), model.get_parameter(f"{UP}.weight"))


@pytest.mark.parametrize("name", ["int-quantized", "naive-quantized"])
@pytest.mark.parametrize("strategy", BLOCKS)
@pytest.mark.parametrize("sym", [True, False])
def test_plain_integers_give_transformers_loss(name: str, strategy: str, sym: bool, tmp_path: Path) -> None:
    assert_same_loss(tmp_path, pack("llama", tmp_path, packer(strategy, sym=sym), config(name)))


@pytest.mark.parametrize("strategy", BLOCKS)
def test_8_bit_floats_give_transformers_loss(strategy: str, tmp_path: Path) -> None:
    parts = packer(strategy, dtype=torch.float8_e4m3fn)
    assert_same_loss(tmp_path, pack("llama", tmp_path, parts, config("float-quantized", kind="float")))


def test_reordered_inputs(tmp_path: Path) -> None:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(5))

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        mixed = order if weight.shape[1] == 64 else torch.arange(weight.shape[1])
        parts, value = packer("group", 4)(weight[:, mixed])
        back = mixed.argsort()
        index = (torch.arange(weight.shape[1]) // 32)[back].int()
        codes = parts.pop("weight")[:, back].int() + 8
        packed = {"weight_packed": packed_bits(codes.numpy(), 4), "weight_shape": torch.tensor(weight.shape)}
        return {**parts, **packed, "weight_g_idx": index}, value[:, back]

    assert_same_loss(tmp_path, pack("llama", tmp_path, quantise, config("pack-quantized", 4)))


@pytest.mark.parametrize(
    ("parts", "settings", "dtype", "grid"),
    [
        (packer("group", 4, packed=True), config("pack-quantized", 4), "int4-g32", "4-bit in groups of 32"),
        (packer("channel", 3, packed=True), config("pack-quantized", 3), "int3-row", "3-bit per row"),
        (packer("tensor"), config("int-quantized"), "int8-tensor", "8-bit per tensor"),
        (packer("channel", 4), config("naive-quantized", 4), "int4-row", "4-bit per row"),
        (packer("block"), config("naive-quantized"), "int8-block", None),
        (
            packer("channel", dtype=torch.float8_e4m3fn),
            config("float-quantized", kind="float"),
            "float8_e4m3fn-row",
            "fp8 per row",
        ),
    ],
)
def test_grids_come_from_the_shapes_and_the_configuration(
    parts: Packer, settings: Any, dtype: str, grid: str | None, tmp_path: Path
) -> None:
    pack("llama", tmp_path, parts, settings)
    with open_checkpoint(tmp_path) as checkpoint:
        found = {tensor.name: tensor for tensor in check_weights(checkpoint).info().tensors}[f"{UP}.weight"]
    assert found.dtype == f"compressed-tensors-{dtype}"
    assert (found.grid.name if found.grid else None) == grid


def test_rounded_activations_are_said_to_be_left_out(tmp_path: Path) -> None:
    settings = config("int-quantized")
    settings["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True, "strategy": "token"}
    pack("llama", tmp_path, packer("channel"), settings)
    with open_checkpoint(tmp_path) as checkpoint:
        assert "rounds the weights alone" in checkpoint.notes[0]
    pack("llama", tmp_path, packer("channel"), config("int-quantized"))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.notes == ()


def test_scales_of_static_activations_are_no_weights(tmp_path: Path) -> None:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        parts, value = packer("channel")(weight)
        return {**parts, "input_scale": torch.ones(1), "input_zero_point": torch.zeros(1, dtype=torch.int8)}, value

    assert_same_loss(tmp_path, pack("llama", tmp_path, quantise, config("int-quantized")))


NVFP4 = nvfp4("weight_packed", "weight_scale", "weight_global_scale", divides=True)


def mxfp8(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    parts, value = fp8.packer((1, 32), exponents=torch.uint8)(weight)
    return {"weight": parts["weight"], "weight_scale": parts["weight_scale_inv"]}, value


@pytest.mark.parametrize(
    ("parts", "name", "dtype"),
    [
        (NVFP4, "nvfp4-pack-quantized", "fp4-g16"),
        (mxfp4(), "mxfp4-pack-quantized", "fp4-g32"),
        (mxfp8, "mxfp8-quantized", "float8_e4m3fn-g32"),
    ],
)
def test_small_floats_with_small_scales(parts: Packer, name: str, dtype: str, tmp_path: Path) -> None:
    model = pack("llama", tmp_path, parts, config(name, 4, "float"))
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        weight = checkpoint.tensor(f"{UP}.weight")
        found = {tensor.name: tensor.dtype for tensor in checkpoint.info.tensors}[f"{UP}.weight"]
    torch.testing.assert_close(weight, model.get_parameter(f"{UP}.weight").detach(), rtol=1e-6, atol=0)
    assert found == f"compressed-tensors-{dtype}"


@pytest.mark.parametrize(
    ("parts", "name", "change", "message"),
    [
        (NVFP4, "nvfp4-pack-quantized", ("weight_global_scale", None), "weight_global_scale is missing"),
        (NVFP4, "nvfp4-pack-quantized", ("weight_global_scale", torch.zeros(1)), "weight_global_scale is 0"),
        (NVFP4, "nvfp4-pack-quantized", ("weight_scale", torch.ones(96, 4)), "weight_scale is stored as float32"),
        (NVFP4, "mxfp4-pack-quantized", None, "tensors are those of nvfp4-pack-quantized, which"),
        (NVFP4, "pack-quantized", None, "tensors are those of nvfp4-pack-quantized, which"),
        (mxfp4(), "nvfp4-pack-quantized", None, "tensors are those of mxfp4-pack-quantized, which"),
        (mxfp4(), "mxfp4-pack-quantized", ("weight_global_scale", torch.ones(1)), "has no weight_global_scale"),
        (mxfp4(), "mxfp4-pack-quantized", ("weight_scale", None), "tensors are those of nvfp4"),
        (mxfp8, "float-quantized", None, "weight_scale is stored as uint8"),
    ],
)
def test_small_floats_that_do_not_fit_are_refused(
    parts: Packer, name: str, change: Any, message: str, tmp_path: Path
) -> None:
    pack("llama", tmp_path, parts, config(name, 4, "float"))
    if change is not None:
        part, tensor = change
        state = load_file(tmp_path / "model.safetensors")
        state.pop(f"{UP}.{part}", None)
        save_file(state if tensor is None else {**state, f"{UP}.{part}": tensor}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message), open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_weights()


@pytest.mark.parametrize("packed", [True, False])
def test_a_zero_point_that_the_configuration_has_may_not_be_missing(packed: bool, tmp_path: Path) -> None:
    settings = config("pack-quantized" if packed else "int-quantized", 4)
    settings["config_groups"]["group_0"]["weights"]["symmetric"] = False
    assert_same_loss(tmp_path, pack("llama", tmp_path, packer("group", 4, sym=False, packed=packed), settings))
    state = load_file(tmp_path / "model.safetensors")
    del state[f"{UP}.weight_zero_point"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="its weight_zero_point is missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("place", ["", "group_0", "weights"])
def test_keys_that_are_not_known_are_refused_by_name(place: str, tmp_path: Path) -> None:
    settings = config("int-quantized")
    group = settings["config_groups"]["group_0"]
    {"": settings, "group_0": group, "weights": group["weights"]}[place]["rotated"] = True
    pack("llama", tmp_path, packer("group"), settings)
    with pytest.raises(CheckpointError, match="has 'rotated', which isn't known"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "marlin-24"}, "format 'marlin-24': only pack-quantized"),
        ({"format": None}, "format 'None'"),
        ({"format": "dense"}, "format 'dense'"),
        ({"config_groups": {"W4A16": ["Linear"]}}, "config_groups doesn't describe"),
        ({"config_groups": 3}, "config_groups doesn't describe"),
        ({"config_groups": {"a": {"weights": {"num_bits": 9}}}}, "a num_bits that isn't 1 to 8"),
        ({"config_groups": {"a": {"format": "mxfp6-pack-quantized"}}}, "another format"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "a sparse format"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transforms of the states"),
        ({"config_groups": {"a": {"weights": {"num_bits": 3}}}}, "not 64 × 96 of 3 bits, densely packed"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer("group", 4, packed=True), config("pack-quantized", 4, **settings))
    assert_refused(tmp_path, message)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("weight_scale", None, "its weight_scale is missing"),
        ("weight_shape", None, "its weight_shape is missing"),
        ("weight_packed", None, "its weight_packed is missing"),
        ("weight_packed", torch.zeros(96, 7, dtype=torch.int32), "weight_packed is 96 × 7, not 96 × 64 of 4 bits"),
        ("weight_shape", torch.tensor([96, 2**40]), "weight_packed is 96 × 8"),
        ("weight_shape", torch.tensor([96, -1]), "weight_packed is 96 × 8"),
        ("weight_shape", torch.tensor([96]), "weight_shape isn't two numbers"),
        ("weight_scale", torch.ones(96, 3), "weight_scale is 96 × 3, which doesn't divide 96 × 64"),
        ("weight_scale", torch.ones(96, 2, dtype=torch.int8), "weight_scale is stored as int8"),
        ("weight_zero_point", torch.zeros(96, 1, dtype=torch.int8), r"weight_zero_point has the shape \[96, 1\]"),
        ("weight_zero_point", torch.zeros(11, 2, dtype=torch.int32), r"weight_zero_point has the shape \[11, 2\]"),
        ("weight_g_idx", torch.full((64,), 9), "weight_g_idx puts an input into a group"),
        ("weight_g_idx", torch.zeros(63, dtype=torch.int64), "weight_g_idx isn't one group"),
        ("weight_scale", torch.full((96, 2), torch.nan), r"up_proj\.weight' holds \d+ NaN or Inf"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, tensor: Tensor | None, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer("group", 4, packed=True), config("pack-quantized", 4))
    state = load_file(tmp_path / "model.safetensors")
    state.pop(f"{UP}.{name}", None)
    if tensor is not None:
        state[f"{UP}.{name}"] = tensor
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message), open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_weights()


def test_floats_that_are_yet_to_be_rounded_are_refused(tmp_path: Path) -> None:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return {"weight": weight, "weight_scale": torch.ones(1)}, weight

    pack("llama", tmp_path, quantise, config("naive-quantized"))
    with pytest.raises(CheckpointError, match="its weight is stored as float32, not as int8"):
        open_checkpoint(tmp_path)


def mixed(*groups: tuple[str, int, str, bool]) -> dict[str, Any]:
    """The settings of layers of several kinds: what they are, their bits, their format, whether without zero points."""
    settings = config("mixed-precision")
    settings["config_groups"] = {
        f"group_{number}": {
            "targets": [target],
            "weights": {"num_bits": bits, "type": "int", "symmetric": sym, "strategy": "group", "group_size": 32},
            "format": form,
        }
        for number, (target, bits, form, sym) in enumerate(groups)
    }
    return settings


@pytest.mark.parametrize("name", ["mixed-precision", "pack-quantized"])
def test_layers_of_several_widths(name: str, tmp_path: Path) -> None:
    """As llm-compressor lays out a recipe of W4A16 for all but down_proj, which is W8A16 by channel."""

    def packers(layer: str) -> Packer:
        down = layer.endswith("down_proj")
        return packer("channel", 8, packed=True) if down else packer("group", 4, sym=False, packed=True)

    settings = mixed(("Linear", 4, "pack-quantized", False), ("re:.*down_proj$", 8, "pack-quantized", True))
    model = pack_each("llama", tmp_path, packers, {**settings, "format": name})
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        found = {info.name: info.dtype for info in checkpoint.info.tensors}
    assert found[f"{UP}.weight"] == "compressed-tensors-int4-g32"
    assert found[f"{UP.replace('up', 'down')}.weight"] == "compressed-tensors-int8-row"


def test_packed_and_plain_codes_of_other_widths(tmp_path: Path) -> None:
    def packers(layer: str) -> Packer:
        return packer("channel", 8) if layer.endswith("down_proj") else packer("group", 4, packed=True)

    settings = mixed(("Linear", 4, "pack-quantized", True), ("re:.*down_proj$", 8, "int-quantized", True))
    assert_same_loss(tmp_path, pack_each("llama", tmp_path, packers, settings))


@pytest.mark.parametrize(
    ("groups", "parts", "message"),
    [
        ([(4, "int-quantized", True), (8, "int-quantized", True)], packer("group", 4), "codes are of 4 or 8 bits"),
        (
            [(3, "pack-quantized", True), (8, "pack-quantized", True)],
            packer("group", 4, packed=True),
            "of 3 or 8 bits",
        ),
        (
            [(4, "pack-quantized", False), (8, "pack-quantized", True)],
            packer("group", 4, packed=True),
            "its weight_zero_point is missing",
        ),
    ],
)
def test_a_width_that_the_file_does_not_show_is_refused(
    groups: list[tuple[int, str, bool]], parts: Packer, message: str, tmp_path: Path
) -> None:
    pack("llama", tmp_path, parts, mixed(*(("Linear", *group) for group in groups)))
    assert_refused(tmp_path, message)
