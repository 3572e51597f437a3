"""Audits of a network whose weights are split over two real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import peelaudit
from peelaudit.integrations.auditing import StepAudits
from tests.checkpoints import models
from tests.places import ROOT

talking = pytest.mark.skipif(
    not torch.distributed.is_gloo_available() or sys.platform == "darwin", reason="gloo's processes don't fork here"
)


def run(kind: str, folder: Path) -> list[dict[str, Any]]:
    """What each of the two processes found."""
    line = [sys.executable, "-W", "ignore", "-m", "tests.integrations.split_run", kind, str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@talking
def test_a_split_network_is_gathered_and_goes_on_as_it_would_have(tmp_path: Path) -> None:
    first, second = run("torch", tmp_path)
    assert first["same"]
    assert (first["steps"], second["steps"]) == ([2, 4], [])
    assert first["losses"][0] != first["losses"][1]
    assert first["losses"][1] == first["whole"]
    assert all("get_model_state_dict" in sentence for sentence in first["refused"])
    assert "this process has a part alone" in first["parts"]
    assert all(sentence.startswith(("FSDPLlama", "Llama")) for sentence in first["refused"])


@talking
@pytest.mark.slow
def test_lightnings_split_network_is_gathered(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    first, second = run("lightning", tmp_path)
    assert (len(first["losses"]), second["losses"]) == (2, [])


def test_a_state_dict_may_be_the_wrappers_or_the_networks_own() -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = models.model("llama")

    wrapper, rows = Wrapper(), np.random.default_rng(0).integers(0, 64, (64, 16))
    settings: dict[str, Any] = {"seq_len": 16, "effort": "quick", "resamples": 100, "schedules": "direct"}
    plain = peelaudit.audit(wrapper, rows, **settings).network.held_out
    other = {name: weight + 0.1 for name, weight in wrapper.state_dict().items()}
    changed = peelaudit.audit(wrapper, rows, state_dict=other, **settings).network.held_out
    assert changed != plain
    own = {name.removeprefix("model."): weight for name, weight in other.items()}
    assert peelaudit.audit(wrapper, rows, state_dict=own, **settings).network.held_out == changed


def test_deepspeeds_zero_3_is_refused() -> None:
    model = models.model("llama")
    for weight in model.parameters():
        weight.ds_id = 0
    rows = torch.arange(1024).reshape(64, 16) % 64
    for ask in (lambda: peelaudit.audit(model, rows), lambda: StepAudits(rows, every=1).after(1, model, first=True)):
        with pytest.raises(peelaudit.CheckpointError, match="ZeRO 3; audit what that saves of it"):
            ask()


def test_a_saved_checkpoint_has_its_own() -> None:
    with pytest.raises(peelaudit.ConfigError, match="state_dict is for a module in memory"):
        peelaudit.audit(ROOT / "fixtures/llama", state_dict={})
