"""transformers' tiny models as llama.cpp's converter writes them: names, rows in another order, norms plus one, values.

Written from the converter alone, and knows nothing of how the files are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

Write = Callable[[gguf.GGUFWriter], None]
_FLOAT = gguf.GGMLQuantizationType.F32
_GRANITES = ("granitemoe", "granitemoeshared")
ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "mistral": "mistral3",
    "ministral3": "mistral3",
    "olmo3": "olmo2",
    "hunyuan_v1_dense": "hunyuan-dense",
    "cohere": "command-r",
    "phi": "phi2",
    "gpt_neox": "gptneox",
    "gpt_bigcode": "starcoder",
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "granitemoeshared": "granitemoe",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
}
"""GGUF's name of the families that have another one there."""


def convert(
    made: transformers.PreTrainedModel,
    path: Path,
    *,
    without: tuple[str, ...] = (),
    beside: dict[str, torch.Tensor] | None = None,
    changed: dict[str, Any] | None = None,
    metadata: Write = lambda writer: None,
    split: int = 0,
    kind: gguf.GGMLQuantizationType = _FLOAT,
) -> Path:
    """The model as a GGUF file; `without` leaves keys and tensors out, `beside` adds tensors under GGUF's names,
    `changed` has other values for the architecture's keys, `split` is how many tensors a part may have, and `kind` is
    the type of the blocks' matrices, routers aside.
    """
    config = made.config
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    for key, value in {**values_of(config), **(changed or {})}.items():
        if key not in without:
            write_value(writer, f"{architecture}.{key}", value)
    for key, listed in listed_of(made).items():
        if key not in without:
            write_value(writer, key, listed)
    metadata(writer)
    tensors = {**(beside or {}), **_tensors(made, architecture)}
    for stored, tensor in tensors.items():
        if stored not in without:
            values = np.ascontiguousarray(tensor.float().numpy())
            own = kind if stored.startswith("blk.") and tensor.ndim > 1 and ".ffn_gate_inp." not in stored else _FLOAT
            writer.add_tensor(stored, gguf.quantize(values, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_value(writer: gguf.GGUFWriter, key: str, given: Any) -> None:
    match given:
        case bool():
            writer.add_bool(key, given)
        case int():
            writer.add_uint32(key, given)
        case float():
            writer.add_float32(key, given)
        case str():
            writer.add_string(key, given)
        case _:
            writer.add_array(key, given)


def names_of(made: transformers.PreTrainedModel) -> list[str]:
    """GGUF's names of the tensors that are written."""
    return list(_tensors(made, ARCHITECTURES.get(made.config.model_type, made.config.model_type)))


def _tensors(made: transformers.PreTrainedModel, architecture: str) -> dict[str, torch.Tensor]:
    config = made.config
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    found = _rotary_factors(config)
    for name, tensor in made.state_dict().items():
        if ".act_fn." in name or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        if parts := _experts(name, tensor) or _latent(name, tensor, config):
            found |= parts
            continue
        known = name.removeprefix("transformer.") if config.model_type == "bloom" else name
        known = known.replace("moe.router.", "moe.router.layer.")  # as Granite's files have it
        stored = table.get_name(known, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        found[stored] = _written(tensor, name, config)
    return found


def _experts(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is written of the experts' tensors, and of two matrices that Granite has as one."""
    layer = name.split(".")[2] if name.startswith("model.layers.") else ""
    if name.endswith("experts.down_proj"):
        return {f"blk.{layer}.ffn_down_exps.weight": tensor}
    kind = {"experts.gate_up_proj": "exps", "shared_mlp.input_linear.weight": "shexp"}
    end = next((end for end in kind if name.endswith(end)), None)
    if end is None:
        return {}
    gate, up = tensor.chunk(2, dim=-2)
    return {f"blk.{layer}.ffn_gate_{kind[end]}.weight": gate, f"blk.{layer}.ffn_up_{kind[end]}.weight": up}


def _latent(name: str, tensor: torch.Tensor, config: Any) -> dict[str, torch.Tensor]:
    """What is written of the matrix that makes keys and values of DeepSeek's latent, and of experts' corrections."""
    layer = name.split(".")[2] if name.startswith("model.layers.") else ""
    if name.endswith("e_score_correction_bias"):
        return {f"blk.{layer}.exp_probs_b.bias": tensor}
    if not name.endswith("kv_b_proj.weight"):
        return {}
    each = tensor.view(config.num_attention_heads, -1, config.kv_lora_rank)
    keys, values = each.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
    return {f"blk.{layer}.attn_k_b.weight": keys.transpose(1, 2), f"blk.{layer}.attn_v_b.weight": values}


# --- what becomes of a tensor -----------------------------------------------------------------------------------------


def _written(tensor: torch.Tensor, name: str, config: transformers.PreTrainedConfig) -> torch.Tensor:
    family, heads = config.model_type, config.num_attention_heads
    if family in ("llama", "mistral", "ministral3", "granite", "smollm3", "arcee", "mixtral", *_GRANITES):
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            return _permuted(tensor, heads)
        if name.endswith(("k_proj.weight", "k_proj.bias")):
            return _permuted(tensor, config.num_key_value_heads)
    if family == "olmo" and name.endswith(("q_proj.weight", "k_proj.weight")):
        return _permuted(tensor, heads if "q_proj" in name else config.num_key_value_heads)
    if family in ("gemma", "gemma2", "gemma3_text", "nemotron") and name.endswith("norm.weight"):
        return tensor + 1
    if family in ("bloom", "gpt_neox") and "query_key_value" in name:
        three = tensor.reshape(heads, 3, config.hidden_size // heads, *tensor.shape[1:])
        return torch.cat([three[:, part].reshape(-1, *tensor.shape[1:]) for part in range(3)])
    if family == "falcon" and "query_key_value" in name:
        keys, size = _falcon_keys(config), config.hidden_size // heads
        fused = tensor.view(keys, heads // keys + 2, size, config.hidden_size)
        parts = (fused[:, :-2], fused[:, [-2]], fused[:, [-1]])
        return torch.cat([part.reshape(-1, config.hidden_size) for part in parts])
    is_conv = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
    return tensor.T if family == "gpt2" and is_conv else tensor


def listed_of(made: transformers.PreTrainedModel) -> dict[str, list[float]]:
    """Apertus' activations, which are values, and not under the architecture's name."""
    found: dict[str, list[float]] = {}
    for name, tensor in made.state_dict().items():
        if ".act_fn." in name:
            found.setdefault(f"xielu.{name.rpartition('.')[2]}", []).append(float(tensor))
    return found


def _permuted(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    rows = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return rows.swapaxes(1, 2).reshape(tensor.shape)


def _falcon_keys(config: transformers.PreTrainedConfig) -> int:
    return config.num_kv_heads if config.new_decoder_architecture else 1


def _rotary_factors(config: transformers.PreTrainedConfig) -> dict[str, torch.Tensor]:
    rotary = getattr(config, "rope_parameters", None) or {}
    return {
        f"rope_factors_{kind}.weight": torch.tensor(rotary[f"{kind}_factor"])
        for kind in ("long", "short")
        if f"{kind}_factor" in rotary
    }


# --- what values are written ------------------------------------------------------------------------------------------


def values_of(config: transformers.PreTrainedConfig) -> dict[str, Any]:
    """The values under the architecture's name."""
    return _OWN[config.model_type](config) if config.model_type in _OWN else _few(config)


def _few(config: transformers.PreTrainedConfig) -> dict[str, Any]:
    """Of the families that llama.cpp takes least from: enough for it to compute."""
    found: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
    }
    if config.model_type == "gpt2":
        return found | {"feed_forward_length": 4 * config.n_embd, "attention.layer_norm_epsilon": 1e-5}
    found |= {
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "rope.freq_base": 10_000.0,
    }
    if config.model_type in ("gemma2", "gemma3_text"):
        found["attention.sliding_window"] = config.sliding_window
    return found


def _usual(config: Any, *, head_dim: bool = True) -> dict[str, Any]:
    """TextModel's, which most families' own begin with."""
    given = config.to_dict()
    rotary = given["rope_parameters"]
    full = rotary.get("full_attention", rotary)
    found = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.freq_base": float(full["rope_theta"]),
    }
    if full["rope_type"] == "yarn":
        found |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(full["factor"]),
            "rope.scaling.original_context_length": full["original_max_position_embeddings"],
        }
        names = {"attention_factor": "attn_factor", "beta_fast": "beta_fast", "beta_slow": "beta_slow"}
        found |= {f"rope.scaling.yarn_{own}": float(full[name]) for name, own in names.items() if name in full}
    if "sliding_attention" in rotary:
        found["rope.freq_base_swa"] = float(rotary["sliding_attention"]["rope_theta"])
    for name in ("rms_norm_eps", "norm_eps"):
        if name in given:
            found["attention.layer_norm_rms_epsilon"] = given[name]
    for name in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"):
        if name in given:
            found["attention.layer_norm_epsilon"] = given[name]
    if head_dim and given.get("head_dim") is not None:
        found |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    return found


def _head(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rotated(config: Any) -> int:
    return int(config.rope_parameters["partial_rotary_factor"] * config.hidden_size) // config.num_attention_heads


def _like_llama(config: Any, *, head_dim: bool = True) -> dict[str, Any]:
    rotary = {"vocab_size": config.vocab_size, "rope.dimension_count": _head(config)}
    return _usual(config, head_dim=head_dim) | rotary


def _gemma(config: Any) -> dict[str, Any]:
    found = _usual(config)
    del found["rope.freq_base"]
    return found


def _ministral3(config: Any) -> dict[str, Any]:
    rotary = config.rope_parameters
    return _like_llama(config) | {
        "rope.scaling.yarn_log_multiplier": rotary["mscale_all_dim"],
        "attention.temperature_scale": rotary["llama_4_scaling_beta"],
    }


def _mixture(config: Any, width: str | None = None) -> dict[str, Any]:
    """TextModel's of experts; `width` is the name of a width of theirs."""
    found = {"expert_count": config.num_experts if hasattr(config, "num_experts") else config.num_local_experts}
    found["expert_used_count"] = config.num_experts_per_tok
    return found | ({"expert_feed_forward_length": getattr(config, width)} if width else {})


def _qwen_mixture(config: Any) -> dict[str, Any]:
    found = _usual(config) | _mixture(config, "moe_intermediate_size")
    beside = getattr(config, "shared_expert_intermediate_size", None)
    return found | ({"expert_shared_feed_forward_length": beside} if beside else {})


def _deepseek(config: Any) -> dict[str, Any]:
    """DeepseekV2Model's: attention as one key head, as wide as the latent and the rotated part."""
    found = _usual(config, head_dim=False) | _mixture(config, "moe_intermediate_size")
    rank, rotated = config.kv_lora_rank, config.qk_rope_head_dim
    if config.n_group is not None:
        found |= {"expert_group_count": config.n_group, "expert_group_used_count": config.topk_group}
    if config.norm_topk_prob:
        found["expert_weights_norm"] = True
    if config.q_lora_rank is not None:
        found["attention.q_lora_rank"] = config.q_lora_rank
    if "mscale_all_dim" in config.rope_parameters:
        found["rope.scaling.yarn_log_multiplier"] = 0.1 * config.rope_parameters["mscale_all_dim"]
    return found | {
        "attention.head_count_kv": 1,
        "expert_gating_func": 2 if config.model_type == "deepseek_v3" else 1,
        "vocab_size": config.vocab_size,
        "leading_dense_block_count": config.first_k_dense_replace,
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rotated,
        "attention.value_length": rank,
        "attention.key_length_mla": config.qk_nope_head_dim + rotated,
        "attention.value_length_mla": config.v_head_dim,
        "expert_shared_count": config.n_shared_experts,
        "expert_weights_scale": float(config.routed_scaling_factor),
        "rope.dimension_count": rotated,
    }


def _granite_mixture(config: Any) -> dict[str, Any]:
    beside = getattr(config, "shared_intermediate_size", 0)
    return _granite(config) | _mixture(config) | ({"expert_shared_feed_forward_length": beside} if beside else {})


def _granite(config: Any) -> dict[str, Any]:
    return _like_llama(config, head_dim=False) | {
        "attention.scale": config.attention_multiplier,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
    }


def _olmo(config: Any) -> dict[str, Any]:
    clip = {} if config.clip_qkv is None else {"attention.clamp_kqv": config.clip_qkv}
    return _usual(config) | {"attention.layer_norm_epsilon": 1e-5} | clip


def _windows(config: Any) -> dict[str, Any]:
    pattern = [kind == "sliding_attention" for kind in config.layer_types]
    return {"attention.sliding_window": config.sliding_window, "attention.sliding_window_pattern": pattern}


def _exaone4(config: Any) -> dict[str, Any]:
    windows = {} if config.sliding_window is None else _windows(config)
    return _usual(config) | {"vocab_size": config.vocab_size} | windows


def _glm4(config: Any) -> dict[str, Any]:
    share = config.rope_parameters["partial_rotary_factor"]
    return _usual(config) | {"rope.dimension_count": int(_head(config) * share)}


def _cohere(config: Any) -> dict[str, Any]:
    return _usual(config) | {"logit_scale": config.logit_scale, "rope.scaling.type": "none"}


def _cohere2(config: Any) -> dict[str, Any]:
    own = {"attention.sliding_window": config.sliding_window, "vocab_size": config.vocab_size}
    return _cohere(config) | own | {"rope.dimension_count": config.hidden_size // config.num_attention_heads}


def _nemotron(config: Any) -> dict[str, Any]:
    return _usual(config) | {
        "vocab_size": config.vocab_size,
        "attention.layer_norm_epsilon": config.norm_eps,
        "rope.dimension_count": _rotated(config),
        "rope.scaling.type": "none",
    }


def _phi3(config: Any) -> dict[str, Any]:
    rotary = config.rope_parameters
    original = rotary.get("original_max_position_embeddings", config.max_position_embeddings)
    scale = config.max_position_embeddings / original
    factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    return _usual(config, head_dim=False) | {
        "rope.scaling.original_context_length": original,
        "rope.dimension_count": _rotated(config),
        "attention.sliding_window": config.sliding_window or 0,
        **({"rope.scaling.attn_factor": factor} if "long_factor" in rotary else {}),
    }


def _old(config: Any, epsilon: float, keys: int | None, **own: Any) -> dict[str, Any]:
    """Of the families whose converters write all by themselves, with an MLP of four times the width."""
    context = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", config.hidden_size)
    return {
        "block_count": config.num_hidden_layers,
        "context_length": context,
        "embedding_length": config.hidden_size,
        "feed_forward_length": 4 * config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_epsilon": epsilon,
        **({} if keys is None else {"attention.head_count_kv": keys}),
        **{key.replace("__", "."): value for key, value in own.items()},
    }


def _phi(config: Any) -> dict[str, Any]:
    rotated = _rotated(config)
    return _old(config, config.layer_norm_eps, config.num_attention_heads, rope__dimension_count=rotated)


def _stablelm(config: Any) -> dict[str, Any]:
    own = {"rope__dimension_count": _rotated(config), "use_parallel_residual": True}  # told by tensors alone
    return _old(config, config.layer_norm_eps, config.num_key_value_heads, **own) | {
        "feed_forward_length": config.intermediate_size
    }


def _gpt_neox(config: Any) -> dict[str, Any]:
    own = {"rope__dimension_count": _rotated(config), "use_parallel_residual": config.use_parallel_residual}
    return _old(config, config.layer_norm_eps, None, **own) | {"feed_forward_length": config.intermediate_size}


def _falcon(config: Any) -> dict[str, Any]:
    return _old(config, config.layer_norm_epsilon, _falcon_keys(config), tensor_data_layout="jploski")


def _mpt(config: Any) -> dict[str, Any]:
    own = {"attention__max_alibi_bias": float(config.attn_config.alibi_bias_max)}
    if config.attn_config.clip_qkv is not None:
        own["attention__clamp_kqv"] = config.attn_config.clip_qkv
    return _old(config, 1e-5, None, **own)


_OWN: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gemma": _gemma,
    "mistral": _like_llama,
    "ministral3": _ministral3,
    "mixtral": lambda config: _like_llama(config) | _mixture(config),
    "qwen2_moe": _qwen_mixture,
    "qwen3_moe": _qwen_mixture,
    "olmoe": lambda config: _usual(config) | _mixture(config),
    "granitemoe": _granite_mixture,
    "granitemoeshared": _granite_mixture,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "granite": _granite,
    "smollm3": _like_llama,
    "arcee": _like_llama,
    "apertus": _like_llama,
    "olmo": _olmo,
    "olmo2": _usual,
    "olmo3": lambda config: _usual(config) | _windows(config),
    "seed_oss": _usual,
    "ernie4_5": _usual,
    "hunyuan_v1_dense": _usual,
    "exaone": lambda config: _usual(config) | {"rope.dimension_count": _head(config)},
    "exaone4": _exaone4,
    "glm4": _glm4,
    "cohere": _cohere,
    "cohere2": _cohere2,
    "nemotron": _nemotron,
    "jais2": lambda config: _usual(config) | {"rope.dimension_count": _head(config)},
    "phi3": _phi3,
    "phi": _phi,
    "starcoder2": _usual,
    "stablelm": _stablelm,
    "gpt_neox": _gpt_neox,
    "falcon": _falcon,
    "bloom": lambda config: _old(config, config.layer_norm_epsilon, config.num_attention_heads),
    "mpt": _mpt,
    "gpt_bigcode": lambda config: _old(config, config.layer_norm_epsilon, 1),
}
