"""Structure: where blocks, writers, norm and head are, told from a forward pass without values."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from peelaudit.checkpoints.configuration import build_skeleton
from peelaudit.network.parts import Family, Tail, Unclear, Writer
from peelaudit.network.structure import find_structure
from tests.checkpoints import models

ATTENTION = Writer("self_attn.o_proj")


def alike(blocks: str, *writers: Writer, tail: str) -> Family:
    """Of two blocks of one kind."""
    return Family(blocks, (writers, writers), Tail(tail))


LLAMA = alike("model.layers", ATTENTION, Writer("mlp.down_proj"), tail="model.norm")
POST_NORM = alike(
    "model.layers",
    Writer("self_attn.o_proj", "post_attention_layernorm"),
    Writer("mlp.down_proj", "post_feedforward_layernorm"),
    tail="model.norm",
)
EXPERTS = Writer("mlp.experts")
EXPECTED = {
    "gpt2": alike("transformer.h", Writer("attn.c_proj"), Writer("mlp.c_proj"), tail="transformer.ln_f"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "smollm3", "bitnet"), LLAMA),
    **dict.fromkeys(("gemma3_text", "olmo2"), POST_NORM),
    "gpt_neox": alike(
        "gpt_neox.layers",
        Writer("attention.dense"),
        Writer("mlp.dense_4h_to_h"),
        tail="gpt_neox.final_layer_norm",
    ),
    "opt": alike(
        "model.decoder.layers", Writer("self_attn.out_proj"), Writer("fc2"), tail="model.decoder.final_layer_norm"
    ),
    "phi": alike("model.layers", Writer("self_attn.dense"), Writer("mlp.fc2"), tail="model.final_layernorm"),
    **dict.fromkeys(("mixtral", "gpt_oss"), alike("model.layers", ATTENTION, EXPERTS, tail="model.norm")),
    "qwen2_moe": alike(
        "model.layers",
        ATTENTION,
        EXPERTS,
        Writer("mlp.shared_expert.down_proj", gate="mlp.shared_expert_gate"),
        tail="model.norm",
    ),
    "deepseek_v3": Family(
        "model.layers",
        ((ATTENTION, Writer("mlp.down_proj")), (ATTENTION, EXPERTS, Writer("mlp.shared_experts.down_proj"))),
        Tail("model.norm"),
    ),
}


def skeleton(family: str, **changes: object) -> Any:
    return build_skeleton(models.config(family, **changes), family)


@pytest.mark.parametrize("family", sorted(models.CONFIGS))
def test_it_is_found(family: str) -> None:
    assert find_structure(skeleton(family)) == EXPECTED[family]


def test_factors_and_caps_are_found() -> None:
    config = transformers.GraniteConfig(**models.LLAMA, residual_multiplier=0.25, logits_scaling=8.0)
    found = find_structure(build_skeleton(config, "granite"))
    assert [writer.scale for writer in found.writers[0]] == [0.25, 0.25]
    assert found.tail == Tail("model.norm", 0.125)
    capped = find_structure(skeleton("gemma3_text", final_logit_softcapping=30.0))
    assert capped.tail == Tail("model.norm", 1.0, 30.0)


def test_a_network_without_a_final_norm_has_none() -> None:
    found = find_structure(skeleton("opt", _remove_final_layer_norm=True))
    assert found.tail == Tail(None)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("opt", {"do_layer_norm_before": False}, "end in a norm of the residual stream"),
        ("opt", {"word_embed_proj_dim": 16}, r"more than a norm \(Linear\)"),
    ],
)
def test_variants_that_cannot_be_peeled_are_told(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unclear, match=message):
        find_structure(skeleton(family, **changes))


def test_logits_divided_by_nothing_are_not_understood() -> None:
    """Found by changed files: a ZeroDivisionError."""
    config = transformers.GraniteConfig(**models.LLAMA, logits_scaling=0.0)
    with pytest.raises(Unclear):
        find_structure(build_skeleton(config, "granite"))


class Gated(nn.Module):
    """An MLP whose product passes something that isn't a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(32, 32)
        self.gate = nn.Linear(32, 32)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(hidden) * self.gate(hidden).sigmoid()


class Ungated(Gated):
    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(hidden)


class Expert(nn.Module):
    """All of its matrices in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(4, 32, 32))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weights[0]


@pytest.mark.parametrize(
    ("mlps", "message"),
    [
        ([Gated, Gated], r"isn't a linear map's product \(mul\)"),
        ([Expert, None], "computed in a way that isn't known"),
        ([nn.Identity, nn.Identity], "linear maps? of a block|linear map's product|residual stream"),
    ],
)
def test_blocks_that_write_otherwise_are_told(mlps: list[type[nn.Module] | None], message: str) -> None:
    module = skeleton("llama")
    for layer, mlp in zip(module.model.layers, mlps, strict=True):
        if mlp is not None:
            with torch.device("meta"):
                layer.mlp = mlp()
    with pytest.raises(Unclear, match=message):
        find_structure(module)


class Sharing(nn.Module):
    """An attention that leaves something for others, or takes what others left."""

    def __init__(self, attention: nn.Module, *, takes: bool) -> None:
        super().__init__()
        self.o_proj, self.inner, self.takes = attention.o_proj, [attention], takes

    def forward(self, shared: Any, **kwargs: Any) -> Any:
        if self.takes:
            shared["keys"]
        shared["keys"] = kwargs["hidden_states"]
        return self.inner[0](**kwargs)


def sharing(shared: object, *, takes: bool) -> Any:
    """A llama whose blocks are all handed one object."""
    module = skeleton("llama")
    inner = module.model.forward
    module.model.forward = lambda *args, **kwargs: inner(*args, shared=shared, **kwargs)
    for index, layer in enumerate(module.model.layers):
        layer.self_attn = Sharing(layer.self_attn, takes=takes and index > 0)
    return module


def test_what_blocks_leave_for_others_is_no_matter_until_one_takes_it() -> None:
    assert find_structure(sharing(UserDict(), takes=False)) == LLAMA
    for shared, takes in ((UserDict(), True), ([object()], False)):
        with pytest.raises(Unclear, match="given the tokens besides, or other blocks' keys and values"):
            find_structure(sharing(shared, takes=takes))


@pytest.mark.parametrize("first", [True, False])
def test_more_than_a_norm_between_blocks_and_head_is_told(first: bool) -> None:
    module = skeleton("llama")
    parts = (nn.Linear(32, 32, device="meta"), module.model.norm) if first else (module.model.norm, nn.GELU())
    module.model.norm = nn.Sequential(*parts)
    with pytest.raises(Unclear, match=r"more than a norm \((Linear|GELU)\)"):
        find_structure(module)
