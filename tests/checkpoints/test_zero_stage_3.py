"""ZeRO stage 3, laid out as DeepSpeed's zero_to_fp32.py reads it: parts of every rank, in groups, filled up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError, MalformedCheckpoint, MismatchedWeights, UnsupportedCheckpoint
from tests.checkpoints.models import model

State = dict[str, torch.Tensor]


def write(step: Path, state: State, ranks: int, *, groups: int = 2, prefix: str = "") -> Path:
    step.mkdir(parents=True)
    names = list(state)
    listed = [names[index::groups] for index in range(groups)]
    shapes = [{name: state[name].shape for name in group} for group in listed]
    parts = {}
    for name, tensor in state.items():
        size = -(-tensor.numel() // ranks)
        filled = torch.cat([tensor.flatten(), torch.full((size * ranks - tensor.numel(),), 9.0)])
        parts[name] = filled.split(size)
    for rank in range(ranks):
        flat = [torch.cat([parts[name][rank] for name in group]) for group in listed]
        states = {
            "module": {name: torch.empty(0) for name in names},
            "buffer_names": [],
            "param_shapes": shapes,
            "frozen_param_shapes": None,
            "shared_params": {},
        }
        torch.save(states, step / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        row = {
            "zero_stage": 3,
            "partition_count": ranks,
            "fp32_flat_groups": flat,
            "optimizer_state_dict": {"state": {}},
        }
        torch.save({"optimizer_state_dict": row}, step / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    model("llama").config.save_pretrained(step)
    return step


@pytest.mark.parametrize(("ranks", "groups"), [(1, 1), (2, 1), (3, 2), (7, 4), (11, 21)])
@pytest.mark.parametrize("prefix", ["", "bf16_"])
def test_parameters_are_put_together(ranks: int, groups: int, prefix: str, tmp_path: Path) -> None:
    state = model("llama").state_dict()
    step = write(tmp_path / "run" / "global_step9", state, ranks, groups=groups, prefix=prefix)
    with open_checkpoint(step) as checkpoint:
        checkpoint.check_weights()
        assert (checkpoint.info.format, checkpoint.info.dtype) == ("deepspeed", "float32")
        assert len(checkpoint.info.files) == ranks + 1
        assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in state.items())


def test_tensors_too_many_or_too_few_are_named(tmp_path: Path) -> None:
    state = model("llama").state_dict()
    with pytest.raises(MismatchedWeights, match=r"no place for 'model\.layers\.0\.gate'"):
        open_checkpoint(write(tmp_path / "a", {**state, "model.layers.0.gate": torch.ones(3)}, 2))
    del state["model.norm.weight"]
    with pytest.raises(MismatchedWeights, match=r"missing: 'model\.norm\.weight'"):
        open_checkpoint(write(tmp_path / "b", state, 2))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def without(name: str) -> Callable[[Path], object]:
    return lambda step: (step / name).unlink()


def row(change: Callable[[Any], object]) -> Callable[[Path], object]:
    path = "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    return lambda step: edit(step / path, lambda content: change(content["optimizer_state_dict"]))


def states(**changes: object) -> Callable[[Path], object]:
    path = "zero_pp_rank_0_mp_rank_00_model_states.pt"
    return lambda step: edit(step / path, lambda content: content.update(changes))


ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (without("zero_pp_rank_2_mp_rank_00_optim_states.pt"), MalformedCheckpoint, "isn't cut for 2 ranks"),
        (without("zero_pp_rank_1_mp_rank_00_optim_states.pt"), MalformedCheckpoint, "some ranks are missing"),
        (without("zero_pp_rank_0_mp_rank_00_model_states.pt"), CheckpointError, "no such file"),
        (row(lambda state: state.update(partition_count=4)), MalformedCheckpoint, "isn't cut for 3 ranks"),
        (row(lambda state: state.update(partition_count=[3, [3]])), MalformedCheckpoint, "isn't cut for 3 ranks"),
        (
            row(lambda state: state.update(ds_zero_partition_groups=[{"partition_count": 2}])),
            MalformedCheckpoint,
            "isn't cut for 3 ranks",
        ),
        (row(lambda state: state.pop("fp32_flat_groups")), MalformedCheckpoint, "holds no fp32_flat_groups"),
        (row(lambda state: state["fp32_flat_groups"].pop()), MalformedCheckpoint, "row isn't as long"),
        (row(lambda state: state["fp32_flat_groups"].append(ONE)), MalformedCheckpoint, "row isn't as long"),
        (row(lambda state: state["fp32_flat_groups"].append(1)), MalformedCheckpoint, "aren't rows of numbers"),
        (
            row(lambda state: state.update(fp32_flat_groups=[state["fp32_flat_groups"][0]] * 2)),
            MalformedCheckpoint,
            "share bytes|row isn't as long",
        ),
        (states(param_shapes=[]), MalformedCheckpoint, "lists no parameters"),
        (
            states(frozen_param_shapes={"a": torch.Size([2])}),
            UnsupportedCheckpoint,
            "frozen_param_shapes .*zero_to_fp32",
        ),
        (states(buffer_names=["a"]), UnsupportedCheckpoint, "buffer_names .*zero_to_fp32"),
    ],
)
def test_what_does_not_fit(
    change: Callable[[Path], object], kind: type[CheckpointError], message: str, tmp_path: Path
) -> None:
    step = write(tmp_path / "step", model("llama").state_dict(), 3)
    change(step)
    with pytest.raises(kind, match=message):
        open_checkpoint(step)
