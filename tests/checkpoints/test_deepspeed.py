"""Directories laid out as DeepSpeed does it: consolidated weights of ZeRO stages 0 to 2, universal checkpoints."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError, MalformedCheckpoint, MismatchedWeights, UnsupportedCheckpoint
from tests.checkpoints.deepspeed_run import RANKS
from tests.checkpoints.models import model
from tests.places import ROOT

State = dict[str, torch.Tensor]


def consolidated(directory: Path, state: State, name: str = "mp_rank_00_model_states.pt") -> Path:
    """What `DeepSpeedEngine.save_checkpoint` has rank 0 write."""
    directory.mkdir(parents=True)
    content = {
        "module": state,
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": [{key: tensor.shape for key, tensor in state.items()}],
        "frozen_param_shapes": None,
        "lr_scheduler": None,
        "sparse_tensor_module_names": set(),
        "skipped_steps": 0,
        "global_steps": 100,
        "dp_world_size": 8,
        "mp_world_size": 1,
        "ds_config": {"zero_optimization": {"stage": 2}},
        "ds_version": "0.18.0",
        "args": argparse.Namespace(lr=1e-3),
    }
    torch.save(content, directory / name)
    torch.save({"optimizer_state_dict": {}}, directory / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return directory


def universal(directory: Path, state: State) -> Path:
    """What ds_to_universal.py writes of each parameter."""
    for name, tensor in state.items():
        folder = directory / "zero" / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"param": tensor.float(), "cat_dim": 0}, folder / "fp32.pt")
        torch.save({"param": torch.zeros_like(tensor)}, folder / "exp_avg.pt")
        torch.save(100, folder / "step.pt")
    return directory


def holds(path: Path, state: State, config: Path) -> bool:
    with open_checkpoint(path, config=config) as checkpoint:
        checkpoint.check_weights()
        assert checkpoint.info.format == "deepspeed"
        return all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in state.items())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    model("llama").config.save_pretrained(tmp_path / "config")
    return tmp_path / "config"


def test_consolidated_weights(config: Path, tmp_path: Path) -> None:
    state = model("llama").bfloat16().state_dict()
    step = consolidated(tmp_path / "run" / "global_step100", {f"module.{name}": t for name, t in state.items()})
    (tmp_path / "run" / "latest").write_text("global_step100\n")
    assert holds(step, state, config)
    assert holds(tmp_path / "run", state, config)
    with open_checkpoint(step / "mp_rank_00_model_states.pt", config=config) as checkpoint:
        assert torch.equal(checkpoint.tensor("lm_head.weight"), state["lm_head.weight"])


def test_a_universal_checkpoint(config: Path, tmp_path: Path) -> None:
    state = model("llama").state_dict()
    step = universal(tmp_path / "run" / "global_step100_universal", state)
    (tmp_path / "run" / "latest_universal").write_text("global_step100_universal")
    assert holds(step, state, config)
    assert holds(tmp_path / "run", state, config)


def test_a_universal_checkpoint_of_stage_3(config: Path, tmp_path: Path) -> None:
    """What ds_to_universal.py writes of it: each parameter's elements in a row, its shape in the model states."""
    state = model("llama").state_dict()
    step = consolidated(tmp_path / "step", state, "zero_pp_rank_0_mp_rank_00_model_states.pt")
    for name, tensor in state.items():
        (step / "zero" / name).mkdir(parents=True)
        torch.save(tensor.flatten(), step / "zero" / name / "fp32.pt")
    assert holds(step, state, config)
    torch.save(torch.ones(100), step / "zero" / "lm_head.weight" / "fp32.pt")
    with pytest.raises(MismatchedWeights, match=r"'lm_head\.weight' is 100, but the configuration makes it 64 × 32"):
        open_checkpoint(step, config=config)


def test_tensors_too_many_or_too_few_are_named(config: Path, tmp_path: Path) -> None:
    state = model("llama").state_dict()
    for index, make in enumerate((consolidated, universal)):
        path = make(tmp_path / f"{index}", {**state, "model.layers.0.gate": torch.ones(2)})
        with pytest.raises(MismatchedWeights, match=r"no place for 'model\.layers\.0\.gate'"):
            open_checkpoint(path, config=config)
        fewer = {name: tensor for name, tensor in state.items() if name != "model.norm.weight"}
        with pytest.raises(MismatchedWeights, match=r"missing: 'model\.norm\.weight'"):
            open_checkpoint(make(tmp_path / f"{index}b", fewer), config=config)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_01_model_states.pt"], "model-parallel"),
        (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "model-parallel ranks"),
        (["layer_00-model_00-model_states.pt", "mp_rank_00_model_states.pt"], "model-parallel ranks"),
    ],
)
def test_weights_that_are_split_are_refused(names: list[str], message: str, config: Path, tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    for name in names:
        torch.save({"module": {}}, tmp_path / "step" / name)
    with pytest.raises(UnsupportedCheckpoint, match=message):
        open_checkpoint(tmp_path / "step", config=config)


def test_damage(config: Path, tmp_path: Path) -> None:
    step = universal(tmp_path / "step", model("llama").state_dict())
    weight = step / "zero" / "model.norm.weight" / "fp32.pt"
    torch.save({"other": 1}, weight)
    with pytest.raises(MalformedCheckpoint, match="holds no parameter"):
        open_checkpoint(step, config=config)
    weight.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(step, config=config)
    weight.symlink_to(tmp_path / "config" / "config.json")
    with pytest.raises(MalformedCheckpoint, match="leaves the directory"):
        open_checkpoint(step, config=config)
    (tmp_path / "latest").write_text("../elsewhere")
    with pytest.raises(MalformedCheckpoint, match="outside of the directory"):
        open_checkpoint(tmp_path, config=config)


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed isn't installed (DS_BUILD_OPS=0 pip install deepspeed)"
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_deepspeed_itself_wrote(stage: int, dtype: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    module = [sys.executable, "-m", "tests.checkpoints.deepspeed_run"]
    run = tmp_path / "run"
    words = [str(RANKS), str(port), str(stage), dtype, str(run)]
    processes = [subprocess.Popen([*module, str(rank), *words], cwd=ROOT) for rank in range(RANKS)]
    assert [process.wait(timeout=240) for process in processes] == [0] * RANKS
    folders = [run]
    if stage > 0:
        convert = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--num_merge_workers", "1"]
        folders.append(tmp_path / "universal")
        paths = ["--input_folder", str(run / "global_step3"), "--output_folder", str(folders[-1] / "global_step3")]
        injected = ["--inject_missing_state"] if stage < 3 else []
        subprocess.run([*convert, "--num_extract_workers", "1", *paths, *injected], check=True, timeout=240)
    whole = torch.load(run / "whole.pt")
    for folder in folders:
        with open_checkpoint(folder, config=run) as checkpoint:
            checkpoint.check_weights()
            assert checkpoint.info.format == "deepspeed"
            # Where the optimizer has weights in float32, those are read: what the module has is these, rounded.
            assert all(torch.equal(checkpoint.tensor(name).to(told.dtype), told) for name, told in whole.items())
