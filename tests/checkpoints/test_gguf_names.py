"""GGUF's names of a network's tensors."""

from __future__ import annotations

import sys

import pytest

from peelaudit.checkpoints.configuration import build_skeleton
from peelaudit.checkpoints.gguf_names import names_in_gguf
from peelaudit.errors import UnsupportedCheckpoint
from tests.checkpoints import models


def named(family: str) -> dict[str, tuple[str, ...]]:
    return dict(names_in_gguf(build_skeleton(models.config(family), "a network")))


@pytest.mark.parametrize(
    ("family", "name", "there"),
    [
        ("llama", "model.layers.1.self_attn.q_proj.weight", ("blk.1.attn_q.weight",)),
        ("llama", "model.layers.0.mlp.down_proj.weight", ("blk.0.ffn_down.weight",)),
        ("bitnet", "model.layers.0.self_attn.o_proj.weight", ("blk.0.attn_output.weight",)),
        ("gpt2", "transformer.h.1.attn.c_attn.weight", ("blk.1.attn_qkv.weight",)),
        ("gpt2", "transformer.h.1.mlp.c_proj.weight", ("blk.1.ffn_down.weight",)),
        ("phi3", "model.layers.0.mlp.gate_up_proj.weight", ("blk.0.ffn_up.weight",)),
        (
            "mixtral",
            "model.layers.0.mlp.experts.gate_up_proj",
            ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"),
        ),
        ("mixtral", "model.layers.0.mlp.experts.down_proj", ("blk.0.ffn_down_exps.weight",)),
        (
            "deepseek_v3",
            "model.layers.0.self_attn.kv_b_proj.weight",
            ("blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight"),
        ),
    ],
)
def test_a_tensor_has_the_name_that_the_converter_gives_it(family: str, name: str, there: tuple[str, ...]) -> None:
    assert named(family)[name] == there


def test_a_family_that_gguf_has_not_is_refused() -> None:
    skeleton = build_skeleton(models.config("llama"), "a network")
    skeleton.config.model_type = "nowhere"
    with pytest.raises(UnsupportedCheckpoint, match="nowhere: no architecture of GGUF is known"):
        names_in_gguf(skeleton)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UnsupportedCheckpoint, match=r"install peelaudit\[gguf\]"):
        named("llama")
