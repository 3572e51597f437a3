"""A whole checkpoint's grids, in the report and in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import peelaudit
from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import ConfigError
from peelaudit.network.lowbit import Holding
from peelaudit.network.lowbit.constraints import Binary, Ternary
from peelaudit.network.weights import check_weights
from peelaudit.records import AuditReport, GridKind, LowBit, LowBitSet
from tests.checkpoints import models
from tests.places import FIXTURES


@pytest.fixture
def ternary(tmp_path: Path) -> Path:
    """A tiny Llama whose MLPs are ternary."""
    model = models.model("llama")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".mlp." in name:
                scale = weight.abs().mean()
                weight.copy_((weight / scale).round().clamp(-1, 1) * scale)
    return models.save(model, tmp_path / "model")


def test_grids_stand_with_the_tensors_that_have_them(ternary: Path) -> None:
    with open_checkpoint(ternary) as checkpoint:
        grids = check_weights(checkpoint)
        assert all(tensor.grid is None for tensor in checkpoint.info.tensors)
    found = {tensor.name: tensor.grid for tensor in grids.info().tensors}
    assert {name for name, grid in found.items() if grid} == {name for name in found if ".mlp." in name}
    assert all(grid.kind is GridKind.TERNARY for grid in found.values() if grid)
    names = grids.matrices("model.layers")
    held = grids.holding("auto", names, names)
    assert held.low_bit == LowBit((LowBitSet("ternary per tensor", 6),), 14, held=True)
    assert set(held.constraints) == {name for name in names if ".mlp." in name}
    free = grids.holding("float", names, names)
    assert (free.constraints, free.low_bit) == ({}, LowBit((LowBitSet("ternary per tensor", 6),), 14, held=False))


def test_a_matrix_that_is_kept_the_other_way_round_is_read_by_its_outputs(tmp_path: Path) -> None:
    model = models.model("gpt2")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".h." in name and weight.ndim == 2:
                weight.copy_(Binary().quantise(weight.T).T)
    with open_checkpoint(models.save(model, tmp_path / "model")) as checkpoint:
        grids = check_weights(checkpoint)
    names = grids.matrices("transformer.h")
    assert grids.holding("auto", names, names).low_bit == LowBit((LowBitSet("binary per row", 8),), 8, held=True)


def audit(checkpoint: Path, tokens: Path, **settings: object) -> AuditReport:
    np.save(tokens, np.random.default_rng(0).integers(0, 64, 4000).astype(np.uint16))
    return peelaudit.audit(checkpoint, tokens, tokens=1024, seq_len=16, resamples=100, effort="quick", **settings)


def test_a_report_says_what_its_references_are(ternary: Path, tmp_path: Path) -> None:
    report = audit(ternary, tmp_path / "tokens.npy")
    assert report.low_bit is not None
    assert report.low_bit.held
    assert not any("references are float" in warning for warning in report.warnings)
    assert any(tensor.grid for tensor in report.checkpoint.tensors)
    free = audit(ternary, tmp_path / "tokens.npy", bits="float")
    assert free.low_bit is not None
    assert not free.low_bit.held
    assert any("references are float" in warning for warning in free.warnings)
    assert free.network.held_out.trained_loss == report.network.held_out.trained_loss


def test_float_references_beside_tell_what_the_bits_cost(ternary: Path, tmp_path: Path) -> None:
    both = audit(ternary, tmp_path / "tokens.npy", float_reference=True, schedules="all")
    free = audit(ternary, tmp_path / "tokens.npy", bits="float", schedules="all")
    for with_both, alone in zip(both.layers, free.layers, strict=True):
        for split in ("fit", "held_out"):
            figures, floats = getattr(with_both, split), getattr(alone, split)
            assert figures.float_bound == floats.bound
            assert figures.distortion.value == pytest.approx(figures.bound.value - floats.bound.value, abs=1e-12)
            assert floats.float_bound is None
    plain = audit(ternary, tmp_path / "tokens.npy", schedules="all")
    assert plain.network.held_out.bound == both.network.held_out.bound
    assert plain.network.held_out.distortion is None


def test_latent_weights_are_audited_as_the_network_that_they_stand_for(tmp_path: Path) -> None:
    model = models.model("llama")
    latent = models.save(model, tmp_path / "latent")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".layers." in name and weight.ndim == 2:
                weight.copy_(Ternary().quantise(weight))
    rounded = models.save(model, tmp_path / "rounded")
    first = audit(latent, tmp_path / "tokens.npy", bits="ternary")
    second = audit(rounded, tmp_path / "tokens.npy")
    assert first.low_bit == second.low_bit == LowBit((LowBitSet("ternary per tensor", 14),), 14, held=True)
    assert first.network == second.network
    assert [row.weights_sha256 for row in first.layers] == [row.weights_sha256 for row in second.layers]
    assert audit(rounded, tmp_path / "tokens.npy", bits="ternary").network == second.network


def test_a_set_for_the_mlps_and_the_outputs_alone(tmp_path: Path) -> None:
    for family, expected in (("llama", 8), ("gpt2", 6), ("opt", 6), ("gpt_neox", 6)):
        checkpoint = models.save(models.model(family), tmp_path / family)
        report = audit(checkpoint, tmp_path / "tokens.npy", bits="binary", bits_on="mlp-and-output")
        assert report.low_bit is not None
        assert report.low_bit.sets == (LowBitSet("binary per row", expected),)


def test_groups_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    checkpoint = models.save(models.model("llama"), tmp_path / "model")
    with pytest.raises(ConfigError, match=r"groups of 48, and model\.layers\.0\.[a-z_.]+ has 32 inputs"):
        audit(checkpoint, tmp_path / "tokens.npy", bits="int4:g48")


def test_a_float_checkpoint_has_none() -> None:
    with open_checkpoint(FIXTURES / "llama") as checkpoint:
        grids = check_weights(checkpoint)
    names = grids.matrices("model.layers")
    assert names
    assert grids.holding("auto", names, names) == Holding({}, rounding=False, low_bit=None)
    assert not any(tensor.grid for tensor in grids.info().tensors)
