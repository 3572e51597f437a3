"""Files written again with other values in some tensors, and the very same bytes in all others."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from peelaudit.checkpoints import open_checkpoint
from peelaudit.checkpoints.patching import OwnFiles
from tests.checkpoints.models import model, nanogpt, save
from tests.checkpoints.support import rewrite

WEIGHT = "transformer.h.1.mlp.c_fc.weight"


def patched(path: Path, out: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A copy of the checkpoint with one parameter plus 1: what was put there, and what is read of it."""
    out.mkdir()
    with open_checkpoint(path) as checkpoint:
        files = OwnFiles(checkpoint)
        assert files.hold([name])
        files.copy(out)
        new = checkpoint.tensor(name) + 1
        files.put(out, {name: new})
        files.close()
    if path.is_dir():
        (out / "config.json").write_bytes((path / "config.json").read_bytes())
    with open_checkpoint(out / path.name if path.is_file() else out) as checkpoint:
        checkpoint.check_weights()
        return new, checkpoint.tensor(name)


@pytest.mark.parametrize("again", [False, True], ids=["torch's archive", "zipfile's archive"])
def test_a_torch_file_has_new_values_and_their_checksum(again: bool, tmp_path: Path) -> None:
    path, out = tmp_path / "ckpt.pt", tmp_path / "out"
    torch.save(nanogpt(bias=True), path)
    if again:
        rewrite(path, lambda name, data: [(name, data)])
    new, found = patched(path, out, WEIGHT)
    assert torch.equal(new, found)
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(out / "ckpt.pt") as after:
        assert after.testzip() is None
        changed = [one for one in before.namelist() if before.read(one) != after.read(one)]
    assert len(changed) == 1
    loaded = torch.load(out / "ckpt.pt", weights_only=True)["model"]
    assert torch.equal(loaded[WEIGHT], new.T)
    assert (out / "ckpt.pt").stat().st_size == path.stat().st_size


def test_tensors_that_share_a_storage_are_written_within_it(tmp_path: Path) -> None:
    state = nanogpt(bias=True)
    whole = torch.randn(8, 128, 64).float()
    whole[2, :, :32] = state["model"][WEIGHT]  # type: ignore[index]
    state["model"][WEIGHT] = whole[2, :, :32]  # type: ignore[index]
    state["beside"] = whole[5]
    torch.save(state, tmp_path / "ckpt.pt")
    new, found = patched(tmp_path / "ckpt.pt", tmp_path / "out", WEIGHT)
    assert torch.equal(new, found)
    loaded = torch.load(tmp_path / "out/ckpt.pt", weights_only=True)
    assert torch.equal(loaded["beside"], whole[5])
    assert torch.equal(loaded["model"][WEIGHT], new.T)


def test_a_safetensors_file_has_the_same_header(tmp_path: Path) -> None:
    base = save(model("llama").to(torch.bfloat16), tmp_path / "base")
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    path = (base / "model.safetensors").rename(tmp_path / "model.safetensors")
    (tmp_path / "out").mkdir()
    with open_checkpoint(path) as checkpoint:
        files = OwnFiles(checkpoint)
        files.copy(tmp_path / "out")
        files.put(tmp_path / "out", {"model.norm.weight": torch.full((32,), 1 / 3)})
        files.close()
    with safe_open(path, "pt") as before, safe_open(tmp_path / "out/model.safetensors", "pt") as after:
        assert before.metadata() == after.metadata()
        different = [n for n in before.keys() if not torch.equal(before.get_tensor(n), after.get_tensor(n))]  # noqa: SIM118
        assert different == ["model.norm.weight"]
        assert torch.equal(after.get_tensor("model.norm.weight"), torch.full((32,), 1 / 3).bfloat16())


def test_experts_go_back_into_the_tensors_that_they_were_stored_in(tmp_path: Path) -> None:
    base = save(model("mixtral"), tmp_path / "base")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    new, found = patched(base, tmp_path / "out", name)
    assert torch.equal(new, found)
    with (
        safe_open(base / "model.safetensors", "pt") as before,
        safe_open(tmp_path / "out/model.safetensors", "pt") as after,
    ):
        different = {n for n in before.keys() if not torch.equal(before.get_tensor(n), after.get_tensor(n))}  # noqa: SIM118
    assert different == {
        f"model.layers.0.block_sparse_moe.experts.{number}.{kind}.weight"
        for number in range(4)
        for kind in ("w1", "w3")
    }
