"""Experts that are stored one by one: made into transformers' tensors, or refused where one is missing or too many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError
from tests.checkpoints import models

State = dict[str, torch.Tensor]
BY_ONE = {"mixtral": "w1.weight", "qwen2_moe": "gate_proj.weight", "deepseek_v3": "gate_proj.weight"}
"""Mixtures whose experts transformers saves one by one, and the end of a tensor's name."""
EXPERT = "model.layers.1.mlp.experts.1."


def edited(folder: Path, edit: Callable[[State], object]) -> Path:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return models.save(models.model("qwen2_moe"), tmp_path / "model")


@pytest.mark.parametrize("family", models.MIXTURES)
def test_every_tensor_is_the_one_that_transformers_reads(family: str, tmp_path: Path) -> None:
    folder = models.save(models.model(family), tmp_path / "model")
    stored = load_file(folder / "model.safetensors")
    assert (family in BY_ONE) == any(name.endswith(f"experts.1.{BY_ONE.get(family)}") for name in stored)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
    with open_checkpoint(folder) as checkpoint:
        checkpoint.check_weights()
        assert set(checkpoint.names()) == set(theirs)
        for name, tensor in theirs.items():
            assert torch.equal(checkpoint.tensor(name), tensor), name
        assert checkpoint.info.parameters == sum(tensor.numel() for tensor in stored.values())


def test_tensors_that_are_whole_already_are_taken_as_they_are(tmp_path: Path) -> None:
    made = models.model("mixtral")
    folder = models.save(made, tmp_path / "model")
    save_file(dict(made.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    with open_checkpoint(folder) as checkpoint:
        name = "model.layers.0.mlp.experts.down_proj"
        assert torch.equal(checkpoint.tensor(name), made.state_dict()[name])


def test_names_without_the_outer_one_and_torch_files_are_read_too(tmp_path: Path) -> None:
    made = models.model("qwen2_moe")
    folder = models.save(made, tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, folder / "pytorch_model.bin")
    with open_checkpoint(folder) as checkpoint:
        for name, tensor in made.state_dict().items():
            assert torch.equal(checkpoint.tensor(name), tensor), name


def drop(name: str) -> Callable[[State], object]:
    return lambda state: state.pop(name)


def move(name: str, other: str) -> Callable[[State], object]:
    return lambda state: state.update({other: state.pop(name)})


def add(name: str, *shape: int) -> Callable[[State], object]:
    return lambda state: state.update({name: torch.zeros(shape)})


def cast(name: str) -> Callable[[State], object]:
    return lambda state: state.update({name: state[name].bfloat16()})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop(EXPERT + "gate_proj.weight"), "aren't numbered from 0 to 2"),
        (drop(EXPERT + "down_proj.weight"), "aren't numbered from 0 to 2"),
        (drop("model.layers.1.mlp.experts.3.up_proj.weight"), "fit together"),
        (drop("model.layers.1.mlp.experts.3.down_proj.weight"), "is 3 × 32 × 24"),
        (add("model.layers.1.mlp.experts.4.down_proj.weight", 32, 24), "is 5 × 32 × 24"),
        (add("model.layers.1.mlp.experts.04.down_proj.weight", 32, 24), "is 5 × 32 × 24"),
        (move(EXPERT + "down_proj.weight", "model.layers.1.mlp.experts.9.down_proj.weight"), "aren't numbered"),
        (move(EXPERT + "down_proj.weight", "model.layers.1.mlp.experts.x.down_proj.weight"), "aren't numbered"),
        (add("model.layers.1.mlp.experts.down_proj", 4, 32, 24), "it is stored whole too"),
        (add(EXPERT + "bias_proj.weight", 24), "no place for"),
        (cast(EXPERT + "down_proj.weight"), "stored as bfloat16 and float32"),
        (add(EXPERT + "gate_proj.weight", 23, 32), "fit together"),
        (drop("model.layers.1.mlp.gate.weight"), "missing"),
    ],
)
def test_experts_that_are_not_all_there_are_refused(qwen: Path, edit: Callable[[State], object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(edited(qwen, edit))
