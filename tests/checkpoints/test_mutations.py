"""A changed config.json: an error, or the network that transformers makes of it; never another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import CheckpointError
from peelaudit.method.readouts.readout import Unembedding
from peelaudit.network.decoder import Decoder
from tests.checkpoints.models import KINDS, model, save

TOKENS = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(2))
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0, "original_max_position_embeddings": 8}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
COMMON: dict[str, tuple[Any, ...]] = {
    "rms_norm_eps": (0.5,),
    "hidden_act": ("relu", "gelu"),
    "rope_parameters": (LINEAR, YARN, DYNAMIC, {"rope_type": "default", "rope_theta": 7.0}),
    "rope_theta": (7.0,),
    "rope_scaling": ({"type": "linear", "factor": 4.0},),
    "partial_rotary_factor": (0.5,),
    "num_attention_heads": (2, 8),
    "num_key_value_heads": (1, 4),
    "head_dim": (4, 32),
    "tie_word_embeddings": (True, False),
    "attention_bias": (True,),
    "mlp_bias": (True,),
    "attention_dropout": (0.5,),
    "sliding_window": (4, 0),
    "use_sliding_window": (True,),
    "layer_types": (["sliding_attention", "full_attention"],),
    "max_position_embeddings": (24, 4096),
    "pretraining_tp": (2,),
    "logit_scale": (0.5,),
    "qk_layernorm": (True,),
}
OWN: dict[str, dict[str, tuple[Any, ...]]] = {
    "gemma3_text": {
        "query_pre_attn_scalar": (4,),
        "sliding_window": (4,),
        "layer_types": (["full_attention", "full_attention"], ["sliding_attention"] * 2, ["full_attention"]),
        "final_logit_softcapping": (0.1,),
        "rope_local_base_freq": (7.0,),
        "hidden_activation": ("relu",),
        "use_bidirectional_attention": (True,),
    },
    "gpt2": {
        "activation_function": ("relu",),
        "layer_norm_epsilon": (0.5,),
        "scale_attn_weights": (False,),
        "scale_attn_by_inverse_layer_idx": (True,),
        "reorder_and_upcast_attn": (True,),
        "add_cross_attention": (True,),
        "n_inner": (96, 128),
        "n_head": (2,),
        "tie_word_embeddings": (False,),
    },
    "deepseek_v3": {
        "num_experts_per_tok": (1, 5),
        "n_routed_experts": (2, 8),
        "n_group": (1, 4),
        "topk_group": (2,),
        "routed_scaling_factor": (0.5,),
        "norm_topk_prob": (False,),
        "n_shared_experts": (2,),
        "first_k_dense_replace": (0, 2),
        "moe_intermediate_size": (12, 48),
        "rope_interleave": (False,),
    },
    "gpt_oss": {
        "num_experts_per_tok": (1, 3),
        "num_local_experts": (2, 8),
        "swiglu_limit": (0.1,),
        "swiglu_alpha": (0.5,),
        "sliding_window": (2,),
        "layer_types": (["full_attention", "full_attention"],),
    },
    "mixtral": {
        "num_experts_per_tok": (1, 3),
        "num_local_experts": (2, 8),
        "hidden_act": ("relu",),
        "router_jitter_noise": (0.5,),
        "intermediate_size": (24, 96),
        "sliding_window": (4,),
    },
    "qwen2_moe": {
        "num_experts_per_tok": (1, 3),
        "num_experts": (0, 2, 8),
        "norm_topk_prob": (True,),
        "mlp_only_layers": ([0],),
        "decoder_sparse_step": (2,),
        "shared_expert_intermediate_size": (24,),
    },
    "gpt_neox": {"use_parallel_residual": (False,), "rotary_pct": (1.0,), "layer_norm_eps": (0.5,)},
    "opt": {"do_layer_norm_before": (False,), "activation_function": ("gelu",), "enable_bias": (False,)},
    "smollm3": {"no_rope_layers": ([1, 1], [0, 0]), "use_sliding_window": (True,)},
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi", "olmo2", *OWN)
CASES = [
    pytest.param(family, key, value, marks=() if family in KINDS or family in OWN else pytest.mark.slow)
    for family in FAMILIES
    for key, values in OWN.get(family, COMMON).items()
    for value in values
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        save(model(family), folder / family)
    return folder


@pytest.mark.parametrize(("family", "key", "value"), CASES)
def test_a_changed_value_is_an_error_or_transformers_network(
    family: str, key: str, value: Any, saved: Path, tmp_path: Path
) -> None:
    values = json.loads((saved / family / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").write_bytes((saved / family / "model.safetensors").read_bytes())
    try:
        found = _logits(tmp_path)
    except CheckpointError:
        return
    torch.testing.assert_close(found, _by_transformers(tmp_path), atol=1e-4, rtol=1e-4)


def _by_transformers(path: Path) -> torch.Tensor:
    made = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: torch.Tensor = made(TOKENS, use_cache=False).logits
    return logits


def _logits(path: Path) -> torch.Tensor:
    """Of the network that an audit would have."""
    with open_checkpoint(path) as checkpoint:
        checkpoint.check_weights()
        decoder = Decoder(checkpoint, seq_len=24, device=torch.device("cpu"), dtype=torch.float32)
        state = decoder.embed(TOKENS)
        with torch.no_grad():
            for layer in range(1, decoder.n_layers + 1):
                state = decoder.block(layer)(state)
            return Unembedding.of(decoder).logits(state)
