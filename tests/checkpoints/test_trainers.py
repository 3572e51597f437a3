"""Checkpoints that accelerate and Lightning wrote themselves."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import UnsupportedCheckpoint
from tests import lightning_runs
from tests.checkpoints.models import model
from tests.places import ROOT

talking = pytest.mark.skipif(
    not torch.distributed.is_gloo_available() or sys.platform == "darwin", reason="gloo's processes don't fork here"
)


def written(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """The state dict that is to be found in what `split_writers` has left in the folder."""
    line = [sys.executable, "-W", "ignore", "-m", "tests.checkpoints.split_writers", kind, str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    state: dict[str, torch.Tensor] = torch.load(folder / "whole.pt")
    return state


def held(path: Path, config: Path, state: dict[str, torch.Tensor]) -> tuple[str, int | None]:
    """The format and the training step of a checkpoint that has the state dict to the last bit."""
    with open_checkpoint(path, config=config) as checkpoint:
        checkpoint.check_weights()
        for name, tensor in state.items():
            if name != "lm_head.weight":  # tied
                assert torch.equal(checkpoint.tensor(name), tensor), name
        return checkpoint.info.format, checkpoint.info.training_step


@talking
@pytest.mark.slow
def test_what_accelerate_writes_of_a_split_network(tmp_path: Path) -> None:
    pytest.importorskip("accelerate.utils.fsdp_utils")
    state = written("accelerate", tmp_path)
    folder = tmp_path / "checkpoint-7"
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 7}))
    assert held(folder / "pytorch_model_fsdp_0", tmp_path, state) == ("torch.distributed", 7)
    assert held(folder / "pytorch_model_fsdp.bin", tmp_path, state) == ("torch", 7)
    with pytest.raises(UnsupportedCheckpoint, match=r"one process had of a split network .*DTensor"):
        open_checkpoint(tmp_path / "ranks" / "pytorch_model_fsdp_0_rank0.bin", config=tmp_path)


@talking
@pytest.mark.slow
def test_what_lightning_writes_of_a_split_network(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    state = written("lightning", tmp_path)
    assert held(tmp_path / "split.ckpt", tmp_path, state) == ("torch.distributed", 4)
    assert held(tmp_path / "whole.ckpt", tmp_path, state) == ("lightning", 4)
    (tmp_path / "split.ckpt" / "meta.pt").write_bytes(b"damaged")
    assert held(tmp_path / "split.ckpt", tmp_path, state) == ("torch.distributed", None)


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_lightnings_trainer(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    network = model("llama")
    module = lightning_runs.module(network, arguments=argparse.Namespace(where=tmp_path, seed=1), rate=1e-3)
    trainer = lightning_runs.trainer(tmp_path, steps=2)
    trainer.fit(module, torch.utils.data.DataLoader(torch.randint(0, 64, (8, 16)), batch_size=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    network.config.save_pretrained(tmp_path)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=False)["hyper_parameters"]
    assert isinstance(kept["arguments"], argparse.Namespace)
    assert held(tmp_path / "last.ckpt", tmp_path, network.state_dict()) == ("lightning", 2)
