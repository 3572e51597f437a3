"""gpt-oss's 4-bit floats: the decoder against transformers' own, on stacks of experts and on single matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from peelaudit.checkpoints.configuration import build_skeleton
from peelaudit.checkpoints.matching import rename
from peelaudit.checkpoints.quantized import Dequantized, find_method
from peelaudit.checkpoints.safetensors_file import SafetensorsFile
from peelaudit.errors import MismatchedWeights, UnsupportedCheckpoint
from tests.checkpoints.quantized.float4 import mxfp4

DOWN = "model.layers.0.mlp.experts.down_proj"
EXPERTS, INPUTS, OUTPUTS = 3, 64, 24
SETTINGS = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


def random_parts(*shape: int) -> dict[str, Tensor]:
    """Any bytes are codes, and any but the highest exponents are scales."""
    torch.manual_seed(1)
    groups = INPUTS // 32
    blocks = torch.randint(0, 256, (*shape, groups, 16), dtype=torch.uint8)
    return {"blocks": blocks, "scales": torch.randint(90, 150, (*shape, groups), dtype=torch.uint8)}


@contextmanager
def opened(path: Path, tensors: Mapping[str, Tensor], **settings: object) -> Iterator[Dequantized]:
    method = find_method({"quantization_config": {**SETTINGS, **settings}}, "config.json")
    assert method is not None
    save_file(dict(tensors), path / "model.safetensors")
    with closing(SafetensorsFile(path / "model.safetensors")) as file:
        yield Dequantized(file, method)


def test_a_stack_of_experts_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    parts = random_parts(EXPERTS, OUTPUTS)
    expected = convert_moe_packed_tensors(parts["blocks"], parts["scales"], dtype=torch.float32)
    stored = {f"{DOWN}_{part}": tensor for part, tensor in parts.items()}
    with opened(tmp_path, {**stored, f"{DOWN}_bias": torch.ones(EXPERTS, OUTPUTS)}) as store:
        assert torch.equal(store.read(DOWN), expected)
        assert store.tensors[DOWN].shape == expected.shape == (EXPERTS, INPUTS, OUTPUTS)
        assert store.tensors[DOWN].dtype == "mxfp4-fp4-g32"
        assert store.tensors[DOWN].bytes == sum(tensor.numel() for tensor in parts.values())
        assert set(store.tensors) == {DOWN, f"{DOWN}_bias"}


def test_the_experts_have_their_places_in_transformers_module(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "vocab_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.GptOssConfig(
        **sizes, hidden_size=OUTPUTS, intermediate_size=INPUTS, num_local_experts=EXPERTS, num_experts_per_tok=1
    )
    skeleton = build_skeleton(config, "config.json")
    stored = {f"{DOWN}_{part}": tensor for part, tensor in random_parts(EXPERTS, OUTPUTS).items()}
    with opened(tmp_path, stored) as store:
        found = store.origins(rename(store, skeleton, within_wrapper=False), skeleton)
    assert found[DOWN].shape == tuple(skeleton.get_parameter(DOWN).shape)


def test_one_matrix(tmp_path: Path) -> None:
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(3))
    parts, value = mxfp4("blocks", "scales")(weight)
    parts["blocks"] = parts["blocks"].reshape(OUTPUTS, -1, 16)
    with opened(tmp_path, {f"up_proj.weight_{part}": tensor for part, tensor in parts.items()}) as store:
        assert torch.equal(store.read("up_proj.weight"), value)


@pytest.mark.parametrize(
    ("part", "tensor", "message"),
    [
        ("scales", None, "its scales is missing"),
        ("blocks", None, "its blocks is missing"),
        ("scales", torch.zeros(EXPERTS, OUTPUTS, 3, dtype=torch.uint8), "scales aren't 3 × 24 × 2"),
        ("scales", torch.zeros(EXPERTS, OUTPUTS, 2), "scales is stored as float32"),
        ("blocks", torch.zeros(EXPERTS, OUTPUTS, 2, 8, dtype=torch.uint8), "blocks are of 8 bytes, not 16"),
        ("blocks", torch.zeros(EXPERTS, OUTPUTS, 32, dtype=torch.uint8), "blocks are of 32 bytes"),
        ("blocks", torch.zeros(32, dtype=torch.uint8), "its blocks has the shape"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part: str, tensor: Tensor | None, message: str, tmp_path: Path) -> None:
    stored = {f"{DOWN}_{name}": found for name, found in random_parts(EXPERTS, OUTPUTS).items() if name != part}
    if tensor is not None:
        stored[f"{DOWN}_{part}"] = tensor
    with pytest.raises(MismatchedWeights, match=message), opened(tmp_path, stored):
        pass


def test_a_stack_that_is_stored_as_floats_too_is_refused(tmp_path: Path) -> None:
    stored = {f"{DOWN}_{name}": found for name, found in random_parts(EXPERTS, OUTPUTS).items()}
    stored[DOWN] = torch.zeros(EXPERTS, INPUTS, OUTPUTS)
    with pytest.raises(MismatchedWeights, match="stored as plain numbers too"), opened(tmp_path, stored):
        pass


def test_a_key_that_is_not_known_is_refused(tmp_path: Path) -> None:
    stored, message = random_parts(EXPERTS, OUTPUTS), "has 'swizzled', which isn't known"
    with pytest.raises(UnsupportedCheckpoint, match=message), opened(tmp_path, stored, swizzled=True):
        pass
