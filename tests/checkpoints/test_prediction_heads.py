"""Heads that predict further tokens are left out, as transformers leaves them out, and said to be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.checkpoints.prediction_heads import without_heads
from peelaudit.checkpoints.store import Store
from peelaudit.errors import CheckpointError
from peelaudit.network.families import admit
from tests.checkpoints.models import save
from tests.network.registry import tiny_model

Tensors = dict[str, Tensor]


def written(folder: Path, beside: Callable[[Tensors], Tensors], family: str = "deepseek_v3", **changes: object) -> Path:
    """A tiny model of two layers, with tensors beside its own and values in its config.json."""
    save(tiny_model(family), folder)
    state = load_file(folder / "model.safetensors")
    save_file(state | beside(state), folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))
    return folder


def behind_the_last(number: int, joint: str = "eh_proj") -> Callable[[Tensors], Tensors]:
    """A layer of further predictions as DeepSeek stores it: one like the last, and what it has of its own."""

    def layer(state: Tensors) -> Tensors:
        prefix = f"model.layers.{number}."
        like = {
            name.replace("model.layers.1.", prefix): tensor.clone()
            for name, tensor in state.items()
            if name.startswith("model.layers.1.")
        }
        own = {
            f"{prefix}{joint}.weight": torch.ones(32, 64),
            **{f"{prefix}{name}.weight": torch.ones(32) for name in ("enorm", "hnorm", "shared_head.norm")},
            **{f"{prefix}{name}.weight": torch.ones(64, 32) for name in ("embed_tokens", "shared_head.head")},
        }
        return like | own

    return layer


def by_name(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda state: {name: torch.ones(3) for name in names}


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe"])
def test_a_layer_behind_the_last_is_left_out(family: str, tmp_path: Path) -> None:
    path = written(tmp_path, behind_the_last(2), family, num_nextn_predict_layers=1)
    with open_checkpoint(path, admit=admit) as checkpoint:
        assert checkpoint.info.layers == 2
        assert not any("layers.2." in name for name in checkpoint.names())
        assert len(checkpoint.notes) == 1
        assert checkpoint.notes[0].startswith("heads that predict further tokens ('model.layers.2.': ")


@pytest.mark.parametrize(
    "names",
    [
        ("mtp.layers.0.mlp.up_proj.weight", "mtp.fc.weight"),
        ("model.mtp.layers.0.mlp.up_proj.weight",),
        ("model.mtp_block.0.mlp.up_proj.weight", "model.mtp_emb_norm.0.weight", "model.mtp_linear_proj.0.weight"),
        ("medusa_head.0.0.linear.weight",),
    ],
)
def test_heads_that_are_told_by_their_names(names: tuple[str, ...], tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path, by_name(*names), "llama")) as checkpoint:
        assert f"{len(names)} tensors) are no part of the audit" in checkpoint.notes[0]


def test_many_heads_take_no_longer_each() -> None:
    """Each has a name of its own, and is looked for among none of the others'."""
    tensors = {f"part{number}.mtp.weight": None for number in range(50_000)}
    store = cast("Store", SimpleNamespace(tensors=tensors, format="", floats=(), paths=()))
    start = time.process_time()
    left, (note,) = without_heads(store, {})
    assert time.process_time() - start < 5
    assert not left.tensors
    assert "and 49999 more: 50000 tensors" in note


@pytest.mark.parametrize(
    ("beside", "changes", "message"),
    [
        (behind_the_last(2), {"num_nextn_predict_layers": 0}, "has 2 layers, but the tensors are those of 3"),
        (behind_the_last(3), {"num_nextn_predict_layers": 1}, "has 2 layers, but the tensors are those of 3"),
        (behind_the_last(2, joint="proj"), {"num_nextn_predict_layers": 1}, "has 2 layers, but the tensors are"),
        (behind_the_last(1), {"num_nextn_predict_layers": 1}, "no place for 'model.layers.1"),
        (by_name("model.empty_heads.0.weight"), {}, "no place for 'model.empty_heads.0.weight'"),
        (by_name("model.prompt_mtp.weight"), {}, "no place for 'model.prompt_mtp.weight'"),
    ],
)
def test_other_layers_and_heads_are_refused(
    beside: Callable[[Tensors], Tensors], changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(written(tmp_path, beside, **changes))
