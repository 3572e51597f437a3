"""A whole checkpoint's grids, in the report and in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import peelaudit
from peelaudit.checkpoints import open_checkpoint
from peelaudit.lowbit import Grids
from peelaudit.records import GridKind
from tests.checkpoints import models


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
        grids = Grids(checkpoint)
        assert all(tensor.grid is None for tensor in checkpoint.info.tensors)
    found = {tensor.name: tensor.grid for tensor in grids.info().tensors}
    assert {name for name, grid in found.items() if grid} == {name for name in found if ".mlp." in name}
    assert all(grid.kind is GridKind.TERNARY for grid in found.values() if grid)
    (words,) = grids.warnings("model.layers")
    assert "6 of 14 matrices ternary per tensor" in words


def test_a_report_says_that_its_references_are_float(ternary: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 64, 4000).astype(np.uint16))
    report = peelaudit.audit(ternary, tmp_path / "tokens.npy", tokens=1024, seq_len=16, resamples=100)
    assert any("references are float" in warning for warning in report.warnings)
    assert any(tensor.grid for tensor in report.checkpoint.tensors)


def test_a_float_checkpoint_has_none() -> None:
    with open_checkpoint(Path(__file__).parents[2] / "fixtures/llama") as checkpoint:
        grids = Grids(checkpoint)
    assert grids.warnings("model.layers") == ()
    assert not any(tensor.grid for tensor in grids.info().tensors)
