"""Layouts of other tools: one sentence that says what converts them, and not that a config.json is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import UnsupportedCheckpoint

STATES = {
    "Meta's": ["tok_embeddings.weight", "layers.0.attention.wq.weight", "norm.weight", "output.weight"],
    "litgpt's": ["lm_head.weight", "transformer.wte.weight", "transformer.h.0.norm_1.weight"],
    "litgpt convert_from_litgpt": ["lm_head.weight", "transformer.h.0.attn.qkv.weight"],
    "Megatron's": ["embedding.word_embeddings.weight", "decoder.layers.0.self_attention.linear_qkv.weight"],
    "torchtune's": ["tok_embeddings.weight", "layers.0.attn.q_proj.weight", "layers.0.sa_norm.scale"],
}


@pytest.mark.parametrize("words", STATES)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_state_dicts(words: str, prefix: str, tmp_path: Path) -> None:
    state = {f"{prefix}{name}": torch.ones(2, 2) for name in STATES[words]}
    torch.save({"model": state}, tmp_path / "model.pth")
    save_file(state, tmp_path / "model.safetensors")
    for name in ("model.pth", "model.safetensors"):
        with pytest.raises(UnsupportedCheckpoint, match=rf"{name}': is in .*{words}"):
            open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("consolidated.00.pth", "convert_llama_weights_to_hf"),
        ("consolidated.safetensors", "convert_mistral_weights_to_hf"),
        ("lit_model.pth", "convert_from_litgpt"),
        ("latest_checkpointed_iteration.txt", "Megatron Bridge"),
    ],
)
def test_directories(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(UnsupportedCheckpoint, match=words):
        open_checkpoint(tmp_path)
