"""What a GGUF file's metadata says of the network, as the values of transformers' configuration.

What llama.cpp takes a missing value for is written out, since transformers' classes have other defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peelaudit.checkpoints.configuration import check_layer_count
from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.gguf_architectures import ARCHITECTURES, Architecture, Rotary
from peelaudit.checkpoints.gguf_header import GgufHeader
from peelaudit.checkpoints.gguf_latent import latent_head
from peelaudit.checkpoints.gguf_rotary import Sizes, Stored, rotary_parameters
from peelaudit.checkpoints.gguf_undo import Heads
from peelaudit.checkpoints.gguf_values import OwnValues
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint

__all__ = ["GgufConfig", "read_config"]

_NORM_EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")


@dataclass(frozen=True, slots=True)
class GgufConfig:
    """The values of a config.json, how the tensors were converted, and which of them are part of the configuration."""

    name: str
    architecture: Architecture
    heads: Heads
    values: Mapping[str, Any]
    used: frozenset[str]


def read_config(header: GgufHeader, stored: Stored, subject: str) -> GgufConfig:
    """The configuration of the network.

    Args:
        header: the file's.
        stored: the file's tensors.
        subject: the file, which begins the messages.

    Raises:
        UnsupportedCheckpoint: the architecture isn't known, the file is no model, or a value changes
            what the network computes and can't be taken over.
        MalformedCheckpoint: a value is missing or impossible.
        MismatchedWeights: the tensors are those of another number of layers.
    """
    name = _name(header, subject)
    own = OwnValues(header, name, subject)
    architecture = _with_or_without_experts(own, ARCHITECTURES[name])
    sizes = _sizes(own, architecture)
    found = _values(own, architecture, sizes, stored)
    if 0 < (window := own.number("attention.sliding_window")) < sizes.context:
        raise own.unused("attention.sliding_window", window)
    own.must_be("attention.scale", max(sizes.head, 1) ** -0.5)
    if (vocabulary := own.take("vocab_size", stored.shapes.get("token_embd.weight", (None,))[0])) is not None:
        found["vocab_size"] = vocabulary
    own.refuse_others()
    special = {f"{kind}_token_id": header.values.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
    found |= {**special, "pad_token_id": None}  # the families' usual ones may be beyond the vocabulary
    heads = Heads(sizes.heads, sizes.keys)
    return GgufConfig(name, architecture, heads, found, frozenset(stored.used))


def _with_or_without_experts(own: OwnValues, architecture: Architecture) -> Architecture:
    """The architecture that the number of experts, which is left to be taken, says."""
    several = bool(own.peek("expert_count"))
    if several and architecture.mixture is not None:
        return architecture.mixture
    if several and not architecture.experts:
        raise UnsupportedCheckpoint(
            f"{own.subject}: mixtures of experts of the architecture {quoted(own.name, 40)} can't be audited; use the"
            " Hugging Face directory of this model"
        )
    if not several and not architecture.experts:
        own.take("expert_count")
    return architecture


def _experts(own: OwnValues, architecture: Architecture, sizes: Sizes) -> dict[str, Any]:
    """How many experts there are, how many a token is given to, and their width where that is one of its own."""
    if not architecture.experts:
        return {}
    count, used, width = architecture.experts
    found = {count: own.need_count("expert_count"), used: own.need_count("expert_used_count")}
    if not 0 < found[used] <= found[count]:
        raise own.unused("expert_used_count", found[used])
    inner = own.count("expert_feed_forward_length", 0)
    if width is not None:
        return {**found, width: inner or sizes.inner // found[used]}
    if inner not in (0, sizes.inner):
        raise own.unused("expert_feed_forward_length", inner)
    return found


def _name(header: GgufHeader, subject: str) -> str:
    values = header.values
    if (kind := values.get("general.type", "model")) != "model":
        raise UnsupportedCheckpoint(f"{subject}: its general.type is {quoted(kind, 40)}; only models can be audited")
    name = values.get("general.architecture")
    if not isinstance(name, str):
        raise MalformedCheckpoint(f"{subject}: doesn't name its architecture")
    if name not in ARCHITECTURES:
        raise UnsupportedCheckpoint(
            f"{subject}: GGUF files of the architecture {quoted(name, 40)} can't be audited;"
            f" these can: {', '.join(ARCHITECTURES)}"
        )
    return name


def _sizes(own: OwnValues, architecture: Architecture) -> Sizes:
    """The network's sizes, which are those that transformers' family can have."""
    layers, context, width = (own.need_count(key) for key in ("block_count", "context_length", "embedding_length"))
    inner, heads = own.per_layer("feed_forward_length"), own.per_layer("attention.head_count")
    if architecture.latent:
        latent = latent_head(own, heads)
        return Sizes(layers, context, width, inner, heads, heads, latent.size, latent.rotary)
    keys = own.per_layer("attention.head_count_kv", heads)
    per_head = width // max(heads, 1)
    head = own.count("attention.key_length", per_head)
    if not architecture.head and head != per_head:
        raise own.unused("attention.key_length", head)
    if (size := own.count("attention.value_length", head)) != head:
        raise own.unused("attention.value_length", size)
    rotary = head if architecture.rotary is Rotary.NONE else own.count("rope.dimension_count", head)
    part = architecture.rotary is Rotary.PART and rotary < head
    if architecture.rotary is not Rotary.NONE and (rotary < 1 or rotary % 2 or not (part or rotary == head)):
        raise own.unused("rope.dimension_count", rotary)
    if keys == 0 or heads % keys or (keys != heads and architecture.name_of("num_key_value_heads") is None):
        raise own.unused("attention.head_count_kv", keys)
    if inner != 4 * width and architecture.name_of("intermediate_size") is None:
        raise own.unused("feed_forward_length", inner)
    return Sizes(layers, context, width, inner, heads, keys, head, rotary)


def _values(own: OwnValues, architecture: Architecture, sizes: Sizes, stored: Stored) -> dict[str, Any]:
    named = {
        "num_hidden_layers": sizes.layers,
        "max_position_embeddings": sizes.context,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.inner,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.keys,
    }
    found: dict[str, Any] = {
        own_name: size for name, size in named.items() if (own_name := architecture.name_of(name)) is not None
    }
    found |= {"head_dim": sizes.head} if architecture.head else {}
    found |= {"model_type": architecture.family, "tie_word_embeddings": "output.weight" not in stored.shapes}
    found |= _experts(own, architecture, sizes)
    found |= {switch: tensor in stored.shapes for switch, tensor in architecture.biases.items()}
    if architecture.epsilon:
        found[architecture.epsilon] = _epsilon(own, architecture)
    if architecture.rotary is not Rotary.NONE:
        partial = architecture.rotary is Rotary.PART
        found["rope_parameters"] = rotary_parameters(
            own, sizes, stored, partial=partial, longrope=architecture.longrope
        )
    check_layer_count(stored.shapes, sizes.layers, own.subject)  # before lists of that length are made
    return {**found, **architecture.odd(own, sizes, stored, found)}


def _epsilon(own: OwnValues, architecture: Architecture) -> float:
    """The norms' epsilon. The key for norms of the other kind may be there besides, if it says the same."""
    rms, layer = _NORM_EPSILONS
    mine, other = (layer, rms) if architecture.layer_norm else (rms, layer)
    epsilon = own.number(mine, None)
    own.must_be(other, epsilon)
    return epsilon
