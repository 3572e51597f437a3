"""Mixtures of experts as they are audited: faults in an expert and in a block; experts that no token reaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import peelaudit
from peelaudit.auditing.selftest import Plan, selftest
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.records import FaultKind
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.rules import Selector
from tests.checkpoints import models
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


def test_experts_of_few_bits_are_audited_as_floats_alone(tmp_path: Path) -> None:
    model = models.model("mixtral")
    with torch.no_grad():
        for layer in model.model.layers:
            experts = layer.mlp.experts.down_proj
            experts.copy_(experts.sign() * experts.abs().mean(dim=(1, 2), keepdim=True))
    folder = tiny(tmp_path / "model", model)
    config = {"tokens": 1024, "seq_len": 16, "resamples": 100, "effort": "quick"}
    with pytest.raises(UnsupportedCheckpoint, match="down_proj are low-bit, which references of them can't be held to"):
        peelaudit.audit(folder, folder / "tokens.npy", **config)
    with pytest.raises(UnsupportedCheckpoint, match="experts can't be held to few bits"):
        peelaudit.audit(folder, folder / "tokens.npy", bits="ternary", **config)
    assert len(peelaudit.audit(folder, folder / "tokens.npy", bits="float", **config).layers) == 2


@pytest.mark.slow
def test_faults_in_an_expert_and_a_block_are_named_and_none_without() -> None:
    """By looks, slopes and routing alone."""
    config = AuditConfig(checkpoint=str(MIXTRAL), tokens=32768, seq_len=256, effort="quick")
    result = selftest(config, Plan(PLANTED, Selector(((2, 3),)), redraws=2, references=False))
    assert result.undamaged == ((), (), ())
    assert [(fault.kind, fault.layer, fault.named) for fault in result.faults] == [
        (kind, layer, (layer,)) for kind in PLANTED for layer in (2, 3)
    ]
