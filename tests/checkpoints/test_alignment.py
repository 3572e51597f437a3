"""Whatever a tensor was read from, it begins where torch's own tensors do: some products are rounded by that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peelaudit.checkpoints import open_checkpoint
from tests.checkpoints import gguf_models, models


def stored(kind: str, folder: Path) -> Path:
    """A tiny LLaMA in a file of that kind, or a tiny nanoGPT."""
    if kind == "nanogpt":
        torch.save(models.nanogpt(bias=True), folder / "ckpt.pt")
        return folder / "ckpt.pt"
    made = models.model("llama", **({"vocab_size": 67} if kind == "odd sizes" else {}))
    if kind == "gguf":
        return gguf_models.convert(made, folder / "model.gguf")
    return models.save(made.to(torch.bfloat16 if kind == "odd sizes" else torch.float32), folder / "model")


@pytest.mark.parametrize("kind", ["safetensors", "odd sizes", "nanogpt", "gguf"])
def test_every_tensor_begins_where_torchs_own_do(kind: str, tmp_path: Path) -> None:
    with open_checkpoint(stored(kind, tmp_path)) as checkpoint:
        begins = {name: checkpoint.tensor(name).data_ptr() % 64 for name in checkpoint.names()}
    assert len(begins) > 10
    assert set(begins.values()) == {0}
