"""Mixtures of experts as they are audited: faults in an expert and in a block; experts that no token reaches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import peelaudit
from peelaudit.auditing.prepare import held_decoder, prepared
from peelaudit.auditing.run import Save, audit_config
from peelaudit.auditing.selftest import Plan, selftest
from peelaudit.method.refinement.files import load_block
from peelaudit.network.lowbit.constraints import Constraint, Integer, Ternary
from peelaudit.network.weights import check_weights
from peelaudit.records import FaultKind, LowBit, LowBitSet, ScaleLayout
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.rules import Selector
from tests.checkpoints import models
from tests.checkpoints.gguf_models import convert
from tests.checkpoints.quantized import gptq
from tests.checkpoints.quantized.support import configure
from tests.network.registry import tiny_values
from tests.places import FIXTURES

MIXTRAL = FIXTURES / "mixtral"
PLANTED = (FaultKind.EXPERT_REINITIALISED, FaultKind.REINITIALISED)


def tiny(folder: Path, model: object) -> Path:
    """A checkpoint of it with random tokens beside."""
    models.save(model, folder)  # type: ignore[arg-type]
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(3, 64, 4000).astype(np.uint16))
    return folder


def test_a_dead_expert_is_told_and_what_reaches_none_is_left_as_it_is(tmp_path: Path) -> None:
    model = models.model("gpt_oss")
    with torch.no_grad():
        model.model.layers[1].mlp.router.bias[2] = -1e4
    folder = tiny(tmp_path / "model", model)
    report = peelaudit.audit(folder, folder / "tokens.npy", tokens=1024, seq_len=16, resamples=100, effort="quick")
    first, second = report.layers
    assert first.signs is not None
    assert second.signs is not None
    assert (first.signs.dead, second.signs.dead, second.signs.experts) == ((), (2,), 4)
    assert [warning for warning in report.warnings if "layer 2: expert 2 (of 0 to 3)" in warning]
    assert "No calibration token reaches expert 2 (of 0 to 3) of block 2." in second.reading
    assert second.least_load is not None
    assert second.most_load is not None
    assert second.least_load.value == 0
    assert 2 / 3 < second.most_load.value <= 1


def rounded(family: str, bits: Constraint, **changes: Any) -> transformers.PreTrainedModel:
    """A tiny mixture with each matrix of its blocks on the set's grid, as it is stored, but for the routers."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 64, "num_key_value_heads": 4}
    values = {**tiny_values(family), **sizes, "head_dim": 16, **changes}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[family](**values)).eval()
    with torch.no_grad():
        for name, weight in model.model.layers.named_parameters():
            if weight.ndim < 2 or name.endswith(".gate.weight"):
                continue
            for matrix in weight if weight.ndim == 3 else weight[None]:
                for piece in matrix.chunk(2) if "gate_up" in name else [matrix]:
                    piece.copy_(bits.quantise(piece))
    return model


@pytest.mark.parametrize(
    ("family", "bits", "name"),
    [
        ("mixtral", Ternary(), "ternary per tensor"),
        ("qwen3_moe", Integer(ScaleLayout.GROUP, 32, 4), "4-bit in groups of 32"),
    ],
)
def test_a_mixture_of_few_bits_has_references_of_as_few(
    family: str, bits: Constraint, name: str, tmp_path: Path
) -> None:
    """The files of the refined blocks are read back by the audit itself, and have the loss that it reports."""
    folder = tiny(tmp_path / "model", rounded(family, bits))
    config = AuditConfig(
        checkpoint=str(folder),
        data=(str(folder / "tokens.npy"),),
        tokens=1024,
        seq_len=16,
        resamples=100,
        schedules=("refined", "final"),
        effort="quick",
    )
    report = audit_config(config, save=Save(refined=tmp_path / "refined"))
    assert report.low_bit == LowBit((LowBitSet(name, 24),), 26, held=True)  # 4 of the attention, 8 of experts
    assert report.network.refinement is not None
    assert all(math.isfinite(row.held_out.bound.value) and math.isfinite(row.fit.bound.value) for row in report.layers)
    with prepared(config) as audit:
        decoder, _ = held_decoder(audit, check_weights(audit.checkpoint))
        for layer in (1, 2):
            block, trained = load_block(tmp_path / "refined", decoder, layer), decoder.block(layer)
            weights, scales = dict(block.module.named_parameters()), trained.scales()
            assert len(block.held) == 12
            assert all(held.fits(weights[path], scales[path]) for path, held in block.held.items())
            assert any(not torch.equal(weights[path], weight) for path, weight in trained.module.named_parameters())


def packed(folder: Path) -> None:
    """Pack each matrix of the blocks as GPTQ does, but for the routers."""
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if ".layers." in name and tensor.ndim == 2 and not name.endswith(".gate.weight"):
            parts, _ = gptq.packer(4, 32)(tensor)
            tensors |= {f"{name.removesuffix('weight')}{part}": made.contiguous() for part, made in parts.items()}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")
    configure(folder, quantization_config=gptq.config(4, 32))


@pytest.mark.parametrize(("family", "stored"), [("mixtral", "gptq-int4-g32"), ("qwen3_moe", "Q4_0")])
def test_packed_experts_are_held_to_how_they_are_packed(family: str, stored: str, tmp_path: Path) -> None:
    model = rounded(family, Integer(ScaleLayout.GROUP, 32, 4), norm_topk_prob=True)
    folder = tiny(tmp_path / "model", model)
    path = folder
    if stored == "Q4_0":
        path = convert(model, tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType.Q4_0)
    else:
        packed(folder)
    report = peelaudit.audit(
        path, folder / "tokens.npy", tokens=1024, seq_len=16, resamples=100, effort="quick", schedules="all"
    )
    assert report.low_bit == LowBit((LowBitSet("4-bit in groups of 32", 24),), 26, held=True)
    assert {tensor.dtype for tensor in report.checkpoint.tensors if "exp" in tensor.name} == {stored}
    assert all(tensor.grid is not None for tensor in report.checkpoint.tensors if "exp" in tensor.name)


def test_a_set_that_is_asked_for_leaves_routers_alone(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", models.model("mixtral"))
    wish = {"tokens": 1024, "seq_len": 16, "resamples": 100, "effort": "quick"}
    report = peelaudit.audit(folder, folder / "tokens.npy", bits="ternary", **wish)
    assert report.low_bit == LowBit((LowBitSet("ternary per tensor", 24),), 26, held=True)
    free = peelaudit.audit(folder, folder / "tokens.npy", bits="float", **wish)
    assert free.low_bit is None


@pytest.mark.slow
def test_faults_in_an_expert_and_a_block_are_named_and_none_without() -> None:
    """By looks, slopes and routing alone."""
    config = AuditConfig(checkpoint=str(MIXTRAL), tokens=32768, seq_len=256, effort="quick")
    result = selftest(config, Plan(PLANTED, Selector(((2, 3),)), redraws=2, references=False))
    assert [one.named for one in result.undamaged] == [(), (), ()]
    assert [(fault.kind, fault.layer, fault.said.named) for fault in result.faults] == [
        (kind, layer, (layer,)) for kind in PLANTED for layer in (2, 3)
    ]
