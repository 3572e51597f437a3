"""AutoRound's settings over GPTQ's and AWQ's tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError
from tests.checkpoints.quantized import awq
from tests.checkpoints.quantized.support import Packer, assert_same_loss, pack, packed_bits

WRITTEN = {"autoround_version": "0.6.0", "iters": 200, "sym": False, "block_name_to_quantize": "model.layers"}


def config(packing: str | None, **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "auto-round",
        "bits": 4,
        "group_size": 32,
        "data_type": "int",
        "packing_format": packing,
        **WRITTEN,
        **more,
    }


def packer(bits: int, *, less_one: bool) -> Packer:
    """Zeros as one number of 32 bits a word, as AutoRound sums them: 0 less one takes from the number above."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        groups, top = weight.reshape(len(weight), -1, 32), 2**bits - 1
        low, high = groups.amin(dim=-1), groups.amax(dim=-1)
        low[::5] = 0  # these groups are clipped from below, and their zero is 0
        scale = ((high - low).clamp_min(1e-3) / top).half().float()
        zero = (-low / scale).round().clamp(0, top)
        codes = (groups / scale[..., None] + zero[..., None]).round().clamp(0, top)
        value = ((codes - zero[..., None]) * scale[..., None]).reshape(weight.shape)
        stored = packed_bits(zero.T.numpy(), bits)
        if less_one:
            ones = sum(1 << shift for shift in range(0, 32, bits))
            stored = ((stored.long() & 0xFFFF_FFFF) - ones) & 0xFFFF_FFFF
            stored = torch.where(stored >= 2**31, stored - 2**32, stored).int()
        qweight = packed_bits(codes.reshape(weight.shape).numpy(), bits).T
        return {"qweight": qweight, "qzeros": stored, "scales": scale.T.half()}, value

    return quantise


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing_format": "auto_round:fp8_static"}, "packing_format 'auto_round:fp8_static'"),
        ({"packing_format": "auto_round:auto_awq"}, "its scales are"),
        ({"act_bits": 8}, "act_bits '8'"),
        ({"data_type": "mx_fp4"}, "data_type 'mx_fp4'"),
        ({"bits": 3}, "its scales are"),
        ({"group_size": 64}, "its scales are"),
        ({"rotation_config": {"kind": "hadamard"}}, "has 'rotation_config', which isn't known"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: Any, message: str, tmp_path: Path) -> None:
    pack("llama", tmp_path, packer(4, less_one=True), config("auto_round:auto_gptq", **settings))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
