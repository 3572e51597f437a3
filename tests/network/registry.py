"""A tiny configuration of every family that transformers has as a causal language model, as far as one can be built."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from peelaudit.checkpoints.configuration import describe
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.network.families import admit

__all__ = ["FAMILIES", "early_refusal", "tiny_model", "tiny_values"]

_DRAFTS = {"gemma4_assistant", "gemma4_unified_assistant"}
FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - _DRAFTS))
"""By transformers' `model_type`; all but those that read another network's keys and values, and aren't one alone."""

_SIZES: dict[str, object] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "ffn_hidden_size": 48,
    "n_inner": 48,
    "dff": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "max_position_embeddings": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 48,
    "sliding_window": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 12,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
}
"""What attention over latent keys and values needs to fit together."""
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
"""A mixture's, under whichever of these names the family has them."""
_BOTH: dict[str, object] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "global_head_dim": 8,
    "num_global_key_value_heads": 2,
}
_ODD: dict[str, dict[str, object]] = {
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "layer_types": ["full_attention", "full_attention"],
    },
    "flint": {"num_experts": 0, "num_experts_per_tok": 0},
    "gemma4_text": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, **_BOTH},
    "gemma4_unified_text": {"num_kv_shared_layers": 0, **_BOTH},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.3, "logits_scaling": 4.0},
    "granite_swa": {"embedding_multiplier": 3.0, "residual_multiplier": 0.3, "logits_scaling": 4.0},
    "zaya": {"num_experts_per_tok": 1},
    "minicpm3": {"scale_emb": 3, "scale_depth": 0.7, "dim_model_base": 16},
}
"""What some have of their own: what makes them odd is switched on."""


def usual_values(family: str) -> dict[str, Any]:
    """The values of a config.json that names nothing but the family."""
    values: dict[str, Any] = transformers.CONFIG_MAPPING[family]().to_dict()
    return {**values, "model_type": family}


def tiny_values(family: str) -> dict[str, Any]:
    """The values of a config.json of two layers of width 32, and the family's usual ones for all that isn't a size."""
    kind, usual = transformers.CONFIG_MAPPING[family], usual_values(family)
    sizes = {**_SIZES, **_EXPERTS, **(_LATENT if "qk_rope_head_dim" in usual else {})}
    values = {kind.attribute_map.get(name, name): value for name, value in sizes.items()}
    values = {name: value for name, value in values.items() if name in usual and not isinstance(usual[name], dict)}
    if isinstance(usual.get("layer_types"), list):
        values["layer_types"] = usual["layer_types"][:2]
    if isinstance(usual.get("mlp_layer_types"), list):  # the first are dense, where any are
        values["mlp_layer_types"] = [usual["mlp_layer_types"][0], usual["mlp_layer_types"][-1]]
    return {**values, **_ODD.get(family, {})}


def tiny_model(family: str) -> transformers.PreTrainedModel:
    """A tiny random model, its weights all different, biases and norms included; a stored factor isn't 1."""
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[family](**tiny_values(family))
    made = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for name, buffer in made.named_buffers():
            if buffer.numel() == 1 and name in made.state_dict():
                buffer.fill_(0.7)
    return made.eval()


def early_refusal(family: str) -> tuple[str, str | None]:
    """The family of the text decoder that a config.json of the family describes, and why it is refused before anything
    is built of it, if it is.
    """
    values = {**usual_values(family), **_ODD.get(family, {})}
    try:
        description = describe(values, "config.json")
        admit("config.json", description.family, description.values)
        assert description.layers > 0
    except UnsupportedCheckpoint as error:
        return family, str(error).removeprefix("config.json: ")
    return description.family, None
