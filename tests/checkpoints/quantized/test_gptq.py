"""GPTQ's integers, of every width and in every order of the inputs."""

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
from tests.checkpoints.quantized.gptq import UP, config, packer
from tests.checkpoints.quantized.support import (
    Packer,
    assert_refused,
    assert_same_loss,
    configure,
    linears,
    pack,
    pack_each,
)

WAYS = [(bits, sym) for bits in (2, 3, 4, 8) for sym in (True, False)]


@pytest.mark.parametrize(("bits", "sym"), WAYS)
def test_every_width_gives_transformers_loss(bits: int, sym: bool, tmp_path: Path) -> None:
    model = pack("llama", tmp_path, packer(bits, 32, sym=sym), config(bits, 32, sym=sym))
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        assert torch.equal(checkpoint.tensor(f"{UP}.weight"), model.get_parameter(f"{UP}.weight"))


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"shift": 0}, {"checkpoint_format": "gptq_v2"}),
        ({"shift": 0}, {"format": "gptq_v2"}),
        ({"shuffle": True}, {"desc_act": True}),
    ],
)
def test_later_formats_and_other_orders(options: Any, settings: Any, tmp_path: Path) -> None:
    assert_same_loss(tmp_path, pack("llama", tmp_path, packer(4, 32, **options), config(4, 32, **settings)))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_whole_rows_biases_and_either_orientation(family: str, tmp_path: Path) -> None:
    assert_same_loss(tmp_path, pack(family, tmp_path, packer(4, -1), config(4, -1)))


def without(parts: Packer, *names: str) -> Packer:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        stored, value = parts(weight)
        return {name: tensor for name, tensor in stored.items() if name not in names}, value

    return quantise


def test_files_without_g_idx_and_with_empty_biases(tmp_path: Path) -> None:
    model = pack("llama", tmp_path, without(packer(4, 32), "g_idx"), config(4, 32))
    state = load_file(tmp_path / "model.safetensors")
    save_file(state | {f"{UP}.bias": torch.zeros(96)}, tmp_path / "model.safetensors")
    assert_same_loss(tmp_path, model)
    save_file(state | {f"{UP}.bias": torch.ones(96)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"no place for '{UP}\.bias'"):
        open_checkpoint(tmp_path)


def test_gptqmodels_borrows_are_undone(tmp_path: Path) -> None:
    """GPTQModel takes 1 off each packed zero point by one subtraction: a zero of 0 borrows from its neighbour."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        parts, _ = packer(4, 32, shift=0)(weight)
        parts["qzeros"] = parts["qzeros"] & ~0xF0  # the second of eight is 0
        zeros = torch.full((len(weight) // 8, 8), 8.0)
        zeros[:, 1] = 0
        words = parts["qzeros"].long() & 0xFFFF_FFFF
        codes = (torch.stack([parts["qweight"] >> shift & 15 for shift in range(0, 32, 4)], 1)).reshape(-1, len(weight))
        scale = parts["scales"].float()[parts["g_idx"].long()]
        parts["qzeros"] = (words - 0x1111_1111).to(torch.int32)
        return parts, (scale * (codes - zeros.reshape(1, -1))).T

    model = pack("llama", tmp_path, quantise, config(4, 32, sym=False, meta={"quantizer": ["gptqmodel:4.0.0"]}))
    assert_same_loss(tmp_path, model)


def test_a_torch_file_may_hold_them(tmp_path: Path) -> None:
    model = pack("llama", tmp_path, packer(4, 32), config(4, 32))
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert_same_loss(tmp_path, model)


@pytest.mark.parametrize(
    ("options", "settings", "dtype", "grid"),
    [
        ({"bits": 4, "group": 32}, {}, "gptq-int4-g32", "4-bit in groups of 32"),
        ({"bits": 8, "group": 32}, {}, "gptq-int8-g32", "8-bit in groups of 32"),
        ({"bits": 3, "group": -1}, {"desc_act": True}, "gptq-int3-row", "3-bit per row"),
        ({"bits": 4, "group": 32, "shuffle": True}, {"desc_act": True}, "gptq-int4-mixed", None),
    ],
)
def test_grids_come_from_the_configuration(
    options: Any, settings: Any, dtype: str, grid: str | None, tmp_path: Path
) -> None:
    pack("llama", tmp_path, packer(**options), config(options["bits"], options["group"], **settings))
    with open_checkpoint(tmp_path) as checkpoint:
        found = {tensor.name: tensor for tensor in check_weights(checkpoint).info().tensors}
        assert dtype in checkpoint.info.dtype
    tensor = found[f"{UP}.weight"]
    assert (tensor.shape, tensor.dtype) == ((96, 64), dtype)
    stored = load_file(tmp_path / "model.safetensors")
    assert tensor.bytes == sum(part.nbytes for name, part in stored.items() if name.startswith(UP))
    assert (tensor.grid.name if tensor.grid else None) == grid
    assert not any(name.endswith(("qweight", "scales", "g_idx")) for name in found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 5}, "asks for bits '5': only 2, 3, 4 or 8 can be read"),
        ({"bits": "4"}, "bits '4'"),
        ({"bits": True}, "bits 'True'"),
        ({"group_size": 0}, "group_size is '0'"),
        ({"group_size": "all"}, "group_size is 'all'"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"is_marlin_format": True}, "is_marlin_format, which isn't read"),
        ({"desc_act": 1}, "desc_act '1'"),
        ({"quant_method": "eetq"}, r"packed by 'eetq' can't be audited \(these can: bitnet, gptq"),
        ({"quant_method": None}, "packed by 'an unnamed method'"),
        ({"quant_method": ["gptq"]}, "can't be audited"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4, 32), {**config(4, 32), **settings})
    with pytest.raises((UnsupportedCheckpoint, MalformedCheckpoint), match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4, 32), config(4, 32))
    configure(tmp_path, quantization_config=["gptq"])
    with pytest.raises(MalformedCheckpoint, match="quantization_config isn't a JSON object"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("scales", None, "its scales is missing"),
        ("qzeros", None, "its qzeros is missing"),
        ("qweight", None, "its qweight is missing"),
        ("qweight", torch.zeros(7, 96, dtype=torch.int32), "qweight has 7 rows, not those of 64 inputs of 4 bits"),
        ("qweight", torch.zeros(8, 0, dtype=torch.int32), r"its qweight has the shape \[8, 0\]"),
        ("qweight", torch.zeros(8, 96), "qweight is stored as float32, not as int32"),
        ("qweight", torch.zeros(16, 96, dtype=torch.int32), "qweight has 16 rows"),
        ("scales", torch.ones(3, 96), "its scales are 3 × 96, for 96 outputs and 64 inputs in groups of 32"),
        ("scales", torch.ones(2, 95), "its scales are 2 × 95"),
        ("scales", torch.ones(2, 96, dtype=torch.int32), "scales is stored as int32"),
        ("qzeros", torch.zeros(2, 13, dtype=torch.int32), "qzeros aren't 2 × 12"),
        ("g_idx", torch.full((64,), 2, dtype=torch.int32), "g_idx puts an input into a group"),
        ("g_idx", torch.full((64,), -1, dtype=torch.int32), "g_idx puts an input into a group"),
        ("g_idx", torch.zeros(63, dtype=torch.int32), "is 96 × 63, but the configuration makes it 96 × 64"),
        ("weight", torch.zeros(96, 64), "stored as plain numbers too"),
        ("scales", torch.full((2, 96), torch.inf), r"up_proj\.weight' holds \d+ NaN or Inf"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, tensor: Tensor | None, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4, 32), config(4, 32))
    state = load_file(tmp_path / "model.safetensors")
    state.pop(f"{UP}.{name}", None)
    if tensor is not None:
        state[f"{UP}.{name}"] = tensor
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught, open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_weights()
    assert "\n" not in str(caught.value)


def test_a_packed_embedding_is_refused(tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4, 32), config(4, 32))
    state = load_file(tmp_path / "model.safetensors")
    parts, _ = packer(4, 32)(state.pop("model.embed_tokens.weight"))
    save_file(
        state | {f"model.embed_tokens.{part}": tensor.contiguous() for part, tensor in parts.items()},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(
        UnsupportedCheckpoint, match=r"'model\.embed_tokens\.weight' is packed, but isn't a linear layer's"
    ):
        open_checkpoint(tmp_path)


DYNAMIC = {
    r"+:.*\.mlp\.down_proj": {"bits": 8, "group_size": -1, "desc_act": False},
    r"model\.layers\.1\.self_attn\.[qk]_proj": {"bits": 2, "group_size": 16},
    r"-:.*\.o_proj": {},
}


def packed_by_dynamic(name: str) -> Packer:
    """What GPTQModel does with that."""
    if name.endswith("o_proj"):
        return lambda weight: ({"weight": weight}, weight)
    if name.endswith("down_proj"):
        return packer(8, -1)
    return packer(2, 16) if name.startswith("model.layers.1.self_attn") and name[-6] in "qk" else packer(4, 32)


@pytest.mark.parametrize("listed", [True, False])
def test_layers_of_several_widths(listed: bool, tmp_path: Path) -> None:
    """With the groups of the inputs listed, as GPTQModel writes them, and without."""
    model = pack_each("llama", tmp_path, packed_by_dynamic, config(4, 32, dynamic=DYNAMIC))
    if not listed:
        state = load_file(tmp_path / "model.safetensors")
        kept = {name: tensor for name, tensor in state.items() if not name.endswith("g_idx")}
        save_file(kept, tmp_path / "model.safetensors")
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        found = {info.name: info.dtype for info in checkpoint.info.tensors}
    assert {found[f"{name}.weight"] for name in linears(model)} == {
        "gptq-int8-row",
        "gptq-int2-g16",
        "gptq-int4-g32",
        "float32",
    }


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"+:.*down_proj": {"bits": 8}}, "its tensors fit none of the widths and groups"),
        ({**DYNAMIC, "+:.*up_proj": {"adapter": {"rank": 8}}}, "has 'adapter', which isn't known"),
        ({**DYNAMIC, "+:.*up_proj": {"bits": 5}}, "bits '5'"),
        ({"+:.*up_proj": 8}, "an entry of dynamic isn't a JSON object"),
        ([8], "dynamic isn't a JSON object"),
    ],
)
def test_settings_of_layers_that_cannot_be_followed_are_refused(dynamic: Any, message: str, tmp_path: Path) -> None:
    pack_each("llama", tmp_path, packed_by_dynamic, config(4, 32, dynamic=dynamic))
    assert_refused(tmp_path, message)


def test_a_layer_that_two_settings_fit_is_refused(tmp_path: Path) -> None:
    """Of 96 inputs two groups are 64 and 32, or 48 and 48."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        parts, value = packer(4, 48 if weight.shape[1] == 96 else 32)(weight)
        return {part: tensor for part, tensor in parts.items() if part != "g_idx"}, value

    dynamic = {"+:.*down_proj": {"group_size": 48}, "+:.*gate_proj": {"group_size": 64}}
    pack("llama", tmp_path, quantise, config(4, 32, dynamic=dynamic))
    assert_refused(tmp_path, "its tensors fit several of the widths and groups")
