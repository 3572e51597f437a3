"""GGUF's architectures: transformers' family of each, and how its values, names and rows become the family's.

What is said here was read in llama.cpp's converter, and in its loader for what a missing value means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from peelaudit.checkpoints import gguf_odd as odd
from peelaudit.checkpoints.gguf_latent import deepseek2
from peelaudit.checkpoints.gguf_rotary import Sizes, Stored
from peelaudit.checkpoints.gguf_undo import (
    Join,
    Undo,
    below,
    grouped,
    key_above_value,
    minus_one,
    paired_keys,
    paired_queries,
    transposed,
)
from peelaudit.checkpoints.gguf_values import OwnValues

__all__ = ["ARCHITECTURES", "Architecture", "Rotary"]

Odd = Callable[[OwnValues, Sizes, Stored, dict[str, Any]], Mapping[str, Any]]
"""What an architecture has of its own: further values, or other ones, by those found so far."""


class Rotary(Enum):
    """How much of a head is rotated: nothing, all of it, or as much as the file says."""

    NONE = "none"
    WHOLE = "whole"
    PART = "part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One of GGUF's architectures.

    Attributes:
        family: transformers' `model_type`.
        epsilon: the family's name of the norms' epsilon.
        layer_norm: whether the norms take the mean away; GGUF has another key for these.
        names: the family's own name of a size; None where it has none, for then the size follows from the others.
        head: whether the family has a value for a head's size, so that it need not be the width over the heads.
        rotary: how much of a head is rotated.
        longrope: whether there may be Phi-3's tables of factors.
        biases: the family's switches, and the tensor whose presence says that it is on.
        odd: what else it has of its own.
        undo: by what a stored name ends in, what undoes the conversion.
        listed: parameters that are stored as values, one for each layer: the key, the name within a layer, the rank.
        experts: the family's names of how many a mixture has, how many a token is given to, and their width; None where
            it has no name of its own, for then the MLP's width is theirs. Empty for what is no mixture.
        joined: tensors within a layer that the family has as one: the first, the second, the name of both, and how.
        latent: whether keys and values are made of a latent.
        mixture: what it is with experts, where it may be both.
    """

    family: str
    epsilon: str = "rms_norm_eps"
    layer_norm: bool = False
    names: Mapping[str, str | None] = field(default_factory=dict)
    head: bool = False
    rotary: Rotary = Rotary.WHOLE
    longrope: bool = False
    biases: Mapping[str, str] = field(default_factory=dict)
    odd: Odd = odd.nothing
    undo: tuple[tuple[str, Undo], ...] = ()
    listed: tuple[tuple[str, str, int], ...] = ()
    experts: tuple[str, str, str | None] | tuple[()] = ()
    joined: tuple[tuple[str, str, str, Join], ...] = ()
    latent: bool = False
    mixture: Architecture | None = None

    def name_of(self, size: str) -> str | None:
        """The family's name of a size, None where it has none."""
        return self.names.get(size, size)


_ATTENTION, _MLP = {"attention_bias": "blk.0.attn_q.bias"}, {"mlp_bias": "blk.0.ffn_down.bias"}
_PAIRED = (
    *((f".attn_q.{kind}", paired_queries) for kind in ("weight", "bias")),
    *((f".attn_k.{kind}", paired_keys) for kind in ("weight", "bias")),
)
_PLUS_ONE = (("norm.weight", minus_one),)
_GROUPED = ((".attn_qkv.weight", grouped), (".attn_qkv.bias", grouped))
_TRANSPOSED = tuple(
    (f".{name}.weight", transposed) for name in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
)  # not `output.weight`, the head
_ALL_HEADS: Mapping[str, str | None] = {"num_key_value_heads": None}
_EXPERTS = (("ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_gate_up_exps.weight", below),)
_SHARED = (("ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_gate_up_shexp.weight", below),)
_KEY_VALUE = (("attn_k_b.weight", "attn_v_b.weight", "attn_kv_b.weight", key_above_value),)

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(
        family="llama",
        head=True,
        biases=_ATTENTION | _MLP,
        undo=_PAIRED,
        mixture=Architecture(
            family="mixtral",
            head=True,
            odd=odd.mixtral,
            undo=_PAIRED,
            experts=("num_local_experts", "num_experts_per_tok", None),
            joined=_EXPERTS,
        ),
    ),
    "qwen2moe": Architecture(
        family="qwen2_moe",
        odd=odd.qwen2moe,
        experts=("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
        joined=_EXPERTS,
    ),
    "qwen3moe": Architecture(
        family="qwen3_moe",
        head=True,
        biases=_ATTENTION,
        odd=odd.qwen3moe,
        experts=("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
        joined=_EXPERTS,
    ),
    "olmoe": Architecture(
        family="olmoe", odd=odd.olmoe, experts=("num_experts", "num_experts_per_tok", None), joined=_EXPERTS
    ),
    "granitemoe": Architecture(
        family="granitemoe",
        biases=_ATTENTION,
        odd=odd.granitemoe,
        undo=_PAIRED,
        experts=("num_local_experts", "num_experts_per_tok", None),
        joined=(*_EXPERTS, *_SHARED),
    ),
    "deepseek2": Architecture(
        family="deepseek_v2",
        odd=deepseek2,
        experts=("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"),
        joined=(*_EXPERTS, *_KEY_VALUE),
        latent=True,
    ),
    "qwen2": Architecture(family="qwen2", head=True),
    "qwen3": Architecture(family="qwen3", head=True, biases=_ATTENTION),
    "gemma": Architecture(family="gemma", head=True, undo=_PLUS_ONE),
    "gemma2": Architecture(family="gemma2", head=True, odd=odd.gemma2, undo=_PLUS_ONE),
    "gemma3": Architecture(family="gemma3_text", head=True, odd=odd.gemma3, undo=_PLUS_ONE),
    "gpt2": Architecture(
        family="gpt2",
        epsilon="layer_norm_epsilon",
        layer_norm=True,
        names={**_ALL_HEADS, "intermediate_size": "n_inner"},
        rotary=Rotary.NONE,
        undo=_TRANSPOSED,
    ),
    "mistral3": Architecture(family="mistral", head=True, odd=odd.mistral3, undo=_PAIRED),
    "phi3": Architecture(family="phi3", rotary=Rotary.PART, longrope=True, odd=odd.phi3),
    "granite": Architecture(family="granite", head=True, biases=_ATTENTION | _MLP, odd=odd.granite, undo=_PAIRED),
    "smollm3": Architecture(family="smollm3", head=True, biases=_ATTENTION | _MLP, odd=odd.smollm3, undo=_PAIRED),
    "arcee": Architecture(family="arcee", head=True, biases=_ATTENTION | _MLP, undo=_PAIRED),
    "apertus": Architecture(
        family="apertus",
        head=True,
        biases=_ATTENTION,
        listed=tuple(
            (f"xielu.{kind}", f"mlp.act_fn.{kind}", int(kind.startswith("alpha")))
            for kind in ("alpha_p", "alpha_n", "beta", "eps")
        ),
    ),
    "olmo": Architecture(
        family="olmo",
        epsilon="",
        layer_norm=True,
        odd=odd.olmo,
        undo=((".attn_q.weight", paired_queries), (".attn_k.weight", paired_keys)),
    ),
    "olmo2": Architecture(family="olmo2", odd=odd.olmo2),
    "seed_oss": Architecture(
        family="seed_oss", head=True, biases=_ATTENTION | {"attention_out_bias": "blk.0.attn_output.bias"}
    ),
    "ernie4_5": Architecture(family="ernie4_5", head=True),
    "hunyuan-dense": Architecture(family="hunyuan_v1_dense", head=True),
    "exaone": Architecture(family="exaone", head=True),
    "exaone4": Architecture(family="exaone4", head=True, odd=odd.exaone4),
    "glm4": Architecture(family="glm4", head=True, rotary=Rotary.PART, biases=_ATTENTION),
    "command-r": Architecture(
        family="cohere",
        epsilon="layer_norm_eps",
        layer_norm=True,
        biases=_ATTENTION | {"use_qk_norm": "blk.0.attn_q_norm.weight"},
        odd=odd.cohere,
    ),
    "cohere2": Architecture(family="cohere2", epsilon="layer_norm_eps", layer_norm=True, odd=odd.cohere2),
    "nemotron": Architecture(
        family="nemotron",
        epsilon="norm_eps",
        layer_norm=True,
        head=True,
        rotary=Rotary.PART,
        biases=_ATTENTION | _MLP,
        undo=_PLUS_ONE,
    ),
    "jais2": Architecture(
        family="jais2", epsilon="layer_norm_eps", layer_norm=True, head=True, biases=_ATTENTION | _MLP
    ),
    "starcoder2": Architecture(
        family="starcoder2", epsilon="norm_epsilon", layer_norm=True, biases={"use_bias": "blk.0.attn_q.bias"}
    ),
    "stablelm": Architecture(
        family="stablelm",
        epsilon="layer_norm_eps",
        layer_norm=True,
        rotary=Rotary.PART,
        biases={"use_qkv_bias": "blk.0.attn_q.bias"},
        odd=odd.stablelm,
    ),
    "phi2": Architecture(family="phi", epsilon="layer_norm_eps", layer_norm=True, rotary=Rotary.PART),
    "gptneox": Architecture(
        family="gpt_neox",
        epsilon="layer_norm_eps",
        layer_norm=True,
        names=_ALL_HEADS,
        rotary=Rotary.PART,
        biases={"attention_bias": "blk.0.attn_qkv.bias"},
        odd=odd.gptneox,
        undo=_GROUPED,
    ),
    "falcon": Architecture(
        family="falcon",
        epsilon="layer_norm_epsilon",
        layer_norm=True,
        names={"intermediate_size": "ffn_hidden_size", "num_key_value_heads": "num_kv_heads"},
        odd=odd.falcon,
        undo=_GROUPED,
    ),
    "bloom": Architecture(
        family="bloom",
        epsilon="layer_norm_epsilon",
        layer_norm=True,
        names={**_ALL_HEADS, "intermediate_size": None, "max_position_embeddings": None},
        rotary=Rotary.NONE,
        undo=_GROUPED,
    ),
    "mpt": Architecture(
        family="mpt",
        epsilon="layer_norm_epsilon",
        layer_norm=True,
        names={**_ALL_HEADS, "intermediate_size": None, "max_position_embeddings": "max_seq_len"},
        rotary=Rotary.NONE,
        odd=odd.mpt,
    ),
    "starcoder": Architecture(
        family="gpt_bigcode",
        epsilon="layer_norm_epsilon",
        layer_norm=True,
        names={"intermediate_size": "n_inner"},
        rotary=Rotary.NONE,
        odd=odd.starcoder,
    ),
}
