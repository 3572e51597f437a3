"""DeepSeek's attention in GGUF, whose keys and values are made of a latent, and its mixture of experts.

llama.cpp's converter cuts the matrix that makes keys and values of the latent into `attn_k_b`, turned round for each
head, and `attn_v_b`, and writes the sizes of what its own attention multiplies: one key head, as wide as the latent and
the rotated part. What a head is in the network stands under `_mla`. Files of before April 2025 have the matrix whole
(`attn_kv_b`) and a head's sizes under the plain keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peelaudit.checkpoints.gguf_rotary import Sizes, Stored
from peelaudit.checkpoints.gguf_values import OwnValues

__all__ = ["LatentHead", "deepseek2", "latent_head"]

_EPSILON = 1e-6
"""Of the latents' norms in transformers, whatever the others' is; llama.cpp has one for all."""
_SOFTMAX, _SIGMOID = 1, 2
"""How scores of experts are made of the router's product."""
_UNGROUPED = 64
"""Experts of the largest mixture that may have no groups where a file doesn't say: files of before November 2025 leave
groups out, and DeepSeek V2 with 160 experts and V3 with 256 have some."""
_GLM_WORDS = 154_880
"""By these llama.cpp tells GLM 4.7 Flash, which is another family in transformers."""


@dataclass(frozen=True, slots=True)
class LatentHead:
    """How wide a head's queries and keys are, and how much of that is rotated."""

    size: int
    rotary: int


def latent_head(own: OwnValues, heads: int) -> LatentHead:
    """A head's sizes, in files of both kinds; those of its values and of the latent are left to be taken.

    Raises:
        MalformedCheckpoint, UnsupportedCheckpoint: one is missing, or they don't fit together.
    """
    rotary = own.need_count("rope.dimension_count")
    if own.peek("attention.key_length_mla") is None:
        size, keys = own.need_count("attention.key_length"), heads
    else:
        size, keys = own.need_count("attention.key_length_mla"), 1
        rank = own.peek("attention.kv_lora_rank")
        for key, expected in (("key_length", rotary), ("value_length", 0)):
            if type(rank) is int and own.need_count(f"attention.{key}") != rank + expected:
                raise own.unused(f"attention.{key}", "not the latent's width")
    if (found := own.per_layer("attention.head_count_kv", keys)) != keys:
        raise own.unused("attention.head_count_kv", found)
    if not 0 < rotary < size or rotary % 2:
        raise own.unused("rope.dimension_count", rotary)
    return LatentHead(size, rotary)


def deepseek2(own: OwnValues, sizes: Sizes, stored: Stored, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """DeepSeek's V2 where scores of experts are a softmax, V3 where each is a sigmoid."""
    if stored.shapes.get("token_embd.weight", (0,))[0] == _GLM_WORDS:
        raise own.unused("vocab_size", _GLM_WORDS)
    if not math.isclose(found["rms_norm_eps"], _EPSILON, rel_tol=1e-5):
        raise own.unused("attention.layer_norm_rms_epsilon", found["rms_norm_eps"])
    whole = own.peek("attention.value_length") is not None  # else the latent's, which was taken
    queries = "blk.0.attn_q_a.weight" in stored.shapes
    return {
        "q_lora_rank": own.need_count("attention.q_lora_rank") if queries else None,
        "kv_lora_rank": own.need_count("attention.kv_lora_rank"),
        "qk_rope_head_dim": sizes.rotary,
        "qk_nope_head_dim": sizes.head - sizes.rotary,
        "v_head_dim": own.need_count("attention.value_length" if whole else "attention.value_length_mla"),
        "rope_parameters": _rotary(own, found["rope_parameters"]),
        "first_k_dense_replace": own.count("leading_dense_block_count", 0),
        **_mixture(own, found),
    }


def _rotary(own: OwnValues, rotary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Yarn, which scales all scores, not the rotated parts, by a factor that is stored times 0.1: the two factors of
    transformers are one in it, as they are in DeepSeek's own models.
    """
    if rotary["rope_type"] != "yarn":
        return rotary
    scale = own.number("rope.scaling.yarn_log_multiplier", None) / 0.1
    if scale <= 0:
        raise own.unused("rope.scaling.yarn_log_multiplier", scale)
    return {**rotary, "mscale": scale, "mscale_all_dim": scale}


def _mixture(own: OwnValues, found: Mapping[str, Any]) -> dict[str, Any]:
    gating, normed = own.take("expert_gating_func", _SOFTMAX), own.take("expert_weights_norm", default=False)
    if gating not in (_SOFTMAX, _SIGMOID):
        raise own.unused("expert_gating_func", gating)
    if type(normed) is not bool or (normed and gating == _SOFTMAX):
        raise own.unused("expert_weights_norm", normed)
    if not (shared := own.need_count("expert_shared_count")):
        raise own.unused("expert_shared_count", shared)
    common = {"n_shared_experts": shared, "routed_scaling_factor": own.number("expert_weights_scale") or 1.0}
    groups, used = _groups(own, found)
    if gating == _SOFTMAX:
        if groups > 1:  # llama.cpp chooses groups by the sum of two scores, this family by the best one
            raise own.unused("expert_group_count", groups)
        return {**common, "topk_method": "greedy"}
    return {
        **common,
        "model_type": "deepseek_v3",
        "norm_topk_prob": normed,
        "n_group": groups,
        "topk_group": used,
        "rope_interleave": True,
    }


def _groups(own: OwnValues, found: Mapping[str, Any]) -> tuple[int, int]:
    """How many groups the experts are in, and of how many of them a token's are."""
    experts, chosen = found["n_routed_experts"], found["num_experts_per_tok"]
    few = experts <= _UNGROUPED
    groups = own.count("expert_group_count", 1) if few else own.need_count("expert_group_count")
    used = own.count("expert_group_used_count", groups)
    if groups <= 1:
        return 1, 1
    size = experts // groups
    if experts % groups or size < 2:
        raise own.unused("expert_group_count", groups)
    if not 0 < used <= groups or used * size < chosen:
        raise own.unused("expert_group_used_count", used)
    return groups, used
