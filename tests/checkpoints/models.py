"""Tiny random models of some families, and checkpoints made of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

LLAMA = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
GQA_HEAD = {**LLAMA, "head_dim": 16}
CONFIGS = {
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "llama": {**LLAMA, "tie_word_embeddings": False},
    "mistral": LLAMA,
    "qwen2": {**LLAMA, "tie_word_embeddings": True},
    "qwen3": GQA_HEAD,
    "gemma": GQA_HEAD,
    "phi3": LLAMA,
    "smollm3": {**LLAMA, "no_rope_layers": [1, 0]},
    "gemma3_text": {**GQA_HEAD, "sliding_window": 8},
    "gpt_neox": {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"},
    "opt": {
        "vocab_size": 64,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
    },
    "phi": {**LLAMA, "num_key_value_heads": 4},
    "olmo2": LLAMA,
    "bitnet": LLAMA,
    "mixtral": {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        **LLAMA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    },
    "deepseek_v3": {
        **LLAMA,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "gpt_oss": {**LLAMA, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
}

MIXTURES = ("deepseek_v3", "gpt_oss", "mixtral", "qwen2_moe")
SMOOTH = {
    "deepseek_v3": {"num_experts_per_tok": 4, "n_group": 1},
    **{family: {"num_experts_per_tok": 4} for family in ("gpt_oss", "mixtral", "qwen2_moe")},
}
"""Changes of mixtures after which every token goes to every expert, and the loss has a derivative everywhere."""


KINDS = (
    *("gpt2", "llama", "qwen2", "gemma3_text", "gpt_neox", "opt", "phi", "bitnet"),
    *("qwen2_moe", "deepseek_v3", "gpt_oss"),
)
"""One of each structure: matrices the other way round; halves one after another, tied and not; norms behind writers,
windows and rotations of two kinds; halves side by side, with one norm and with two; biases everywhere; rounded inputs;
experts beside an MLP with a gate, beside one without and below dense layers, with biases. The others are as one of
these: Mistral, Qwen 3, Phi-3 and SmolLM3 as Llama, Gemma and OLMo 2 as Gemma 3, Mixtral as Qwen 2's without the MLP.
"""


def families(*without: str) -> list[Any]:
    """A test's parameters: every family but those, where `make test` has one of each structure."""
    return [
        family if family in KINDS else pytest.param(family, marks=pytest.mark.slow)
        for family in sorted(CONFIGS.keys() - set(without))
    ]


def config(family: str, **changes: object) -> transformers.PreTrainedConfig:
    """A tiny configuration of the family; the special tokens fit its vocabulary."""
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return transformers.CONFIG_MAPPING[family](**{**CONFIGS[family], **special, **changes})


def model(family: str, **changes: object) -> transformers.PreTrainedModel:
    """A tiny model with weights that are all different, biases and norms included."""
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(config(family, **changes))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return made.eval()


def save(made: transformers.PreTrainedModel, directory: Path, **options: object) -> Path:
    """`save_pretrained`, without the libraries' warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_pretrained(directory, **options)
    return directory


def nanogpt(*, bias: bool, prefix: str = "", layers: int = 2) -> dict[str, object]:
    """A training checkpoint as nanoGPT writes it, with its own names and orientation."""
    torch.manual_seed(0)
    width, vocabulary, context = 32, 64, 16
    state = {
        "transformer.wte.weight": torch.randn(vocabulary, width),
        "transformer.wpe.weight": torch.randn(context, width),
    }
    sizes = {
        "attn.c_attn": (3 * width, width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (4 * width, width),
        "mlp.c_proj": (width, 4 * width),
        "ln_1": (width,),
        "ln_2": (width,),
    }
    for layer in range(layers):
        for name, size in sizes.items():
            state[f"transformer.h.{layer}.{name}.weight"] = torch.randn(size) * 0.2
            if bias:
                state[f"transformer.h.{layer}.{name}.bias"] = torch.randn(size[0]) * 0.2
        state[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, context, context).tril()
    state["transformer.ln_f.weight"] = torch.randn(width)
    if bias:
        state["transformer.ln_f.bias"] = torch.randn(width)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    arguments = {
        "n_layer": layers,
        "n_head": 4,
        "n_embd": width,
        "block_size": context,
        "bias": bias,
        "vocab_size": vocabulary,
        "dropout": 0.0,
    }
    return {
        "model": {f"{prefix}{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 6e-4, "betas": (0.9, 0.95)}]},
        "model_args": arguments,
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char"},
    }
