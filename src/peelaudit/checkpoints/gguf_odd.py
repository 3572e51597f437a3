"""What single architectures of GGUF have of their own: windows, soft caps, scales, two ways to lay out a block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peelaudit.checkpoints.gguf_rotary import Sizes, Stored
from peelaudit.checkpoints.gguf_values import OwnValues

__all__ = [
    *("cohere", "cohere2", "exaone4", "falcon", "gemma2", "gemma3", "gptneox", "granite", "mistral3", "mpt"),
    *("granitemoe", "mixtral", "nothing", "olmo", "olmo2", "olmoe", "phi3", "qwen2moe", "qwen3moe", "smollm3"),
    *("stablelm", "starcoder"),
]

Found = Mapping[str, Any]

_WIDTH_SCALED = {"gemma2": 46, "gemma3": 62}
"""Gemma's 27B models, told by their layers, scale attention by width per head; all others by the head's own size."""
_WINDOWED_EXAONE, _EXAONE_WINDOW = 64, 4096
"""Layers of the one EXAONE 4 that llama.cpp gives windows, and how long they are where the file doesn't say."""
_OF_HYBRIDS = (
    *(f"ssm.{key}" for key in ("conv_kernel", "group_count", "inner_size", "state_size", "time_step_rank")),
    "expert_shared_feed_forward_length",
)
"""What stands in a Granite of the hybrids' family that has neither recurrent layers nor experts."""
_ALIBI = 8
"""The steepest slope of ALiBi's, as a power of a half."""


def nothing(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Of most."""
    return {}


def _layer_types(own: OwnValues, layers: int, period: int) -> list[str]:
    """Which layers have a window: as the file lists them, else all but every so many."""
    pattern = own.take("attention.sliding_window_pattern", period)
    if type(pattern) is int and pattern >= 0:
        slides = [pattern == 0 or layer % pattern < pattern - 1 for layer in range(layers)]
    elif isinstance(pattern, list) and len(pattern) == layers and all(type(one) is bool for one in pattern):
        slides = pattern
    else:
        raise own.unused("attention.sliding_window_pattern", pattern)
    return ["sliding_attention" if one else "full_attention" for one in slides]


def _windows(own: OwnValues, sizes: Sizes, period: int) -> dict[str, Any]:
    return {
        "sliding_window": own.need_count("attention.sliding_window"),
        "layer_types": _layer_types(own, sizes.layers, period),
    }


def _local(own: OwnValues, found: Found, theta: float) -> dict[str, Any]:
    """Rotary embeddings of layers with a window, which have a base of their own and are never scaled."""
    local = {"rope_type": "default", "rope_theta": own.number("rope.freq_base_swa", theta)}
    return {"rope_parameters": {"full_attention": found["rope_parameters"], "sliding_attention": local}}


def _gemma(own: OwnValues, sizes: Sizes, period: int, final: float) -> dict[str, Any]:
    scalar = sizes.width // max(sizes.heads, 1) if sizes.layers == _WIDTH_SCALED[own.name] else sizes.head
    return {
        **_windows(own, sizes, period),
        "final_logit_softcapping": own.number("final_logit_softcapping", final) or None,
        "query_pre_attn_scalar": scalar,
    }


def gemma2(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """llama.cpp has soft caps for it where the file doesn't say."""
    caps = {"attn_logit_softcapping": own.number("attn_logit_softcapping", 50.0) or None}
    return _gemma(own, sizes, period=2, final=30.0) | caps


def gemma3(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Scores have no soft cap, for which transformers has no use."""
    return _gemma(own, sizes, period=6, final=0.0) | _local(own, found, theta=10_000.0)


def mistral3(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Mistral's of late 2025: yarn that leaves scores as they are, which grow with the position instead."""
    rotary = dict(found["rope_parameters"])
    if log := own.number("rope.scaling.yarn_log_multiplier"):
        if rotary["rope_type"] != "yarn":
            raise own.unused("rope.scaling.yarn_log_multiplier", log)
        rotary |= {"mscale": 1.0, "mscale_all_dim": log}
    if not (growth := own.number("attention.temperature_scale")):
        return {"rope_parameters": rotary, "sliding_window": None}
    if rotary["rope_type"] != "yarn":
        raise own.unused("attention.temperature_scale", growth)
    rotary["llama_4_scaling_beta"] = growth
    return {"model_type": "ministral3", "rope_parameters": rotary, "sliding_window": None}


def phi3(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Its window is every layer's. llama.cpp computes without, which isn't what was trained."""
    name = "original_max_position_embeddings"  # which transformers looks for outside, too
    original = {name: found["rope_parameters"][name]} if name in found["rope_parameters"] else {}
    return {"sliding_window": own.count("attention.sliding_window", 0) or None, **original}


def granite(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Four scales. That the rotary embedding isn't `finetuned` stands for none at all."""
    for key in _OF_HYBRIDS:
        own.take(key)
    if (rotated := own.take("rope.scaling.finetuned")) not in (None, True):
        raise own.unused("rope.scaling.finetuned", rotated)
    if not (logits := own.number("logit_scale", None)):
        raise own.unused("logit_scale", logits)
    return {
        "logits_scaling": logits,
        "embedding_multiplier": own.number("embedding_scale") or 1.0,
        "residual_multiplier": own.number("residual_scale") or 1.0,
        "attention_multiplier": own.number("attention.scale") or sizes.head**-0.5,
    }


def granitemoe(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Granite's scales, and an MLP beside the experts where the file has its width."""
    beside = own.count("expert_shared_feed_forward_length", 0)
    shared = {"model_type": "granitemoeshared", "shared_intermediate_size": beside} if beside else {}
    return {**granite(own, sizes, stored, found), **shared}


def mixtral(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Its windows, if it had any, are in no file."""
    return {"sliding_window": None}


def qwen2moe(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """llama.cpp takes for granted that every layer has experts, and the weights of a token's are left as they are."""
    beside = own.count("expert_shared_feed_forward_length", 0) or sizes.inner
    return {"norm_topk_prob": False, "shared_expert_intermediate_size": beside, "use_sliding_window": False}


def qwen3moe(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """llama.cpp takes for granted that the weights of a token's experts add up to one."""
    return {"norm_topk_prob": True, "use_sliding_window": False}


def olmoe(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """llama.cpp takes for granted that nothing is clipped; the weights of a token's experts are left as they are."""
    return {"norm_topk_prob": False, "clip_qkv": None}


def smollm3(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Every fourth layer has no positions; the file doesn't say so."""
    return {
        "no_rope_layers": [int((layer + 1) % 4 != 0) for layer in range(sizes.layers)],
        "use_sliding_window": False,
    }


def olmo(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Its norms have no weights, and transformers' no epsilon but this."""
    own.must_be("attention.layer_norm_epsilon", 1e-5)
    return {"clip_qkv": _clip(own)}


def _clip(own: OwnValues) -> float | None:
    """What queries, keys and values are held to; nothing where it is 0."""
    if (clip := own.number("attention.clamp_kqv")) < 0:
        raise own.unused("attention.clamp_kqv", clip)
    return float(clip) or None


def olmo2(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """With windows it is OLMo 3."""
    if not (window := own.count("attention.sliding_window", 0)):
        return {}
    return {
        "model_type": "olmo3",
        "sliding_window": window,
        "layer_types": _layer_types(own, sizes.layers, period=4),
        **_local(own, found, theta=found["rope_parameters"]["rope_theta"]),
    }


def exaone4(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Windows in one size of it alone, whose layers without have no positions either."""
    if sizes.layers != _WINDOWED_EXAONE:
        return {"sliding_window": None, "layer_types": ["full_attention"] * sizes.layers}
    own.must_be("rope.freq_base_swa", found["rope_parameters"]["rope_theta"])
    return {
        "sliding_window": own.count("attention.sliding_window", _EXAONE_WINDOW),
        "layer_types": _layer_types(own, sizes.layers, period=4),
    }


def cohere(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """What logits are multiplied by; 0 stands for nothing."""
    return {"logit_scale": own.number("logit_scale", None) or 1.0}


def cohere2(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Layers without a window have no positions."""
    own.must_be("rope.freq_base_swa", found["rope_parameters"]["rope_theta"])
    return {**cohere(own, sizes, stored, found), **_windows(own, sizes, period=4)}


def stablelm(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """A block without a second norm is parallel, whatever the file's value says: llama.cpp doesn't look at that."""
    own.take("use_parallel_residual")
    return {"use_parallel_residual": "blk.0.ffn_norm.weight" not in stored.shapes}


def gptneox(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Blocks are parallel or not."""
    if type(parallel := own.need("use_parallel_residual")) is not bool:
        raise own.unused("use_parallel_residual", parallel)
    return {"use_parallel_residual": parallel}


def falcon(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """One key for all queries (7B), or groups of them, with one norm for the block (11B) or two (40B)."""
    if (layout := own.need("tensor_data_layout")) != "jploski":
        raise own.unused("tensor_data_layout", layout)
    two = "blk.0.attn_norm_2.weight" in stored.shapes
    grouped = two or sizes.keys != 1
    return {
        "new_decoder_architecture": grouped,
        "num_ln_in_parallel_attn": (2 if two else 1) if grouped else None,
        "multi_query": True,
        "parallel_attn": True,
        "alibi": False,
        "bias": False,
    }


def mpt(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """Positions by ALiBi alone, with the one slope that transformers has for it, whatever its configuration says."""
    if (slope := own.number("attention.max_alibi_bias", None)) != _ALIBI:
        raise own.unused("attention.max_alibi_bias", slope)
    return {"attn_config": {"alibi": True, "clip_qkv": _clip(own)}}


def starcoder(own: OwnValues, sizes: Sizes, stored: Stored, found: Found) -> Found:
    """One key for all queries: with more, transformers has the fused rows in another order."""
    if sizes.keys != 1:
        raise own.unused("attention.head_count_kv", sizes.keys)
    return {"multi_query": True}
