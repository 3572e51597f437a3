"""8-bit floats with scales over blocks, outputs or the matrix, against transformers' own reading of the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError
from tests.checkpoints.quantized.fp8 import UP, config, packer, plain
from tests.checkpoints.quantized.support import Packer, assert_refused, assert_same_loss, pack

E8M0 = torch.float8_e8m0fnu
MX = {"quant_method": "mxfp8", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"}


@pytest.mark.parametrize(
    ("parts", "settings", "dtype"),
    [
        (packer((32, 32)), config(fmt="e4m3"), "fp8-float8_e4m3fn-block"),
        (packer((32, 32), exponents=E8M0), config(scale_fmt="ue8m0"), "fp8-float8_e4m3fn-block"),
        (packer((1, 32), exponents=torch.uint8), MX, "mxfp8-float8_e4m3fn-g32"),
        (packer((128, 128)), {"quant_method": "fp8"}, "fp8-float8_e4m3fn-tensor"),
    ],
)
def test_blocks_are_read_as_transformers_reads_them(
    parts: Packer, settings: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    model = pack("llama", tmp_path, parts, settings)
    assert_same_loss(tmp_path, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with open_checkpoint(tmp_path) as checkpoint:
        assert {tensor.name: tensor.dtype for tensor in checkpoint.info.tensors}[f"{UP}.weight"] == dtype
        for name, expected in theirs.state_dict().items():
            assert torch.equal(checkpoint.tensor(name).float(), expected), name


@pytest.mark.parametrize(
    ("parts", "settings", "sharing"),
    [
        (plain(), config(None), "tensor"),
        (plain(shape=(1,)), {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": []}, "tensor"),
        (plain(shape=(1, 1)), config(), "tensor"),
        (plain(rows=True), {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "row"),
        (plain(rows=True, shape=(-1,)), {"quant_method": "fbgemm_fp8"}, "row"),
    ],
)
def test_one_scale_for_the_matrix_or_each_output(
    parts: Packer, settings: dict[str, Any], sharing: str, tmp_path: Path
) -> None:
    assert_same_loss(tmp_path, pack("llama", tmp_path, parts, settings))
    with open_checkpoint(tmp_path) as checkpoint:
        dtypes = {tensor.name: tensor.dtype for tensor in checkpoint.info.tensors}
    assert dtypes[f"{UP}.weight"] == f"{settings['quant_method']}-float8_e4m3fn-{sharing}"


@pytest.mark.parametrize("block", [(40, 48), (128, 24), (7, 64)])
def test_the_last_blocks_may_be_cut_off(block: tuple[int, int], tmp_path: Path) -> None:
    """96 × 64 and 64 × 96 in blocks that don't divide them: they are counted from the first weight."""
    assert_same_loss(tmp_path, pack("llama", tmp_path, packer(block), config(block)))


def test_the_other_8_bit_float(tmp_path: Path) -> None:
    parts = packer((32, 32), code=torch.float8_e5m2)
    assert_same_loss(tmp_path, pack("llama", tmp_path, parts, config(fmt="e5m2")))


def test_that_kernels_round_inputs_too_is_said(tmp_path: Path) -> None:
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        parts, value = plain()(weight)
        return {**parts, "input_scale": torch.tensor(0.5)}, value

    model = pack("llama", tmp_path, quantise, config(None, activation_scheme="static"))
    assert_same_loss(tmp_path, model)
    with open_checkpoint(tmp_path) as checkpoint:
        assert "inputs rounded to 8-bit floats" in checkpoint.notes[0]
        assert "the audit rounds the weights alone" in checkpoint.notes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_block_size": [128]}, "weight_block_size is"),
        ({"weight_block_size": [0, 32]}, "weight_block_size is"),
        ({"weight_block_size": 32}, "weight_block_size is"),
        ({"weight_block_size": [64, 64]}, r"weight_scale_inv has the shape \[\d, \d\], for .* in blocks of 64 × 64"),
        ({"weight_block_size": None}, r"weight_scale_inv has the shape"),
        ({"fmt": "e5m2"}, "its weight is stored as float8_e4m3fn, not as float8_e5m2"),
        ({"fmt": "e3m4"}, "fmt 'e3m4'"),
        ({"activation_scheme": "none"}, "activation_scheme 'none'"),
        ({"scale_fmt": "log"}, "scale_fmt 'log'"),
        ({"expert_dtype": "fp4"}, "expert_dtype 'fp4'"),
        ({"hadamard": True}, "has 'hadamard', which isn't known and may change the network"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer((32, 32)), config(**settings))
    assert_refused(tmp_path, message)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("weight_scale_inv", None, "its weight_scale_inv is missing"),
        ("weight", None, "its weight is missing"),
        ("weight", torch.zeros(96, 64), "its weight is stored as float32"),
        ("weight_scale_inv", torch.ones(3, 3), r"weight_scale_inv has the shape \[3, 3\]"),
        ("weight_scale_inv", torch.ones(6), r"weight_scale_inv has the shape \[6\]"),
        ("weight_scale_inv", torch.ones(3, 2, dtype=torch.int8), "weight_scale_inv is stored as int8"),
        ("weight_scale", torch.ones(1), "it has both weight_scale_inv and weight_scale"),
        ("weight_scale_inv", torch.full((3, 2), 255, dtype=torch.uint8), r"up_proj\.weight' holds \d+ NaN or Inf"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, tensor: Tensor | None, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer((32, 32)), config())
    state = load_file(tmp_path / "model.safetensors")
    state.pop(f"{UP}.{name}", None)
    if tensor is not None:
        state[f"{UP}.{name}"] = tensor
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message), open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_weights()
