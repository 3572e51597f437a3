"""The one table of families: where a module has its blocks and its final norm, and what a block writes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peelaudit.checkpoints import Checkpoint
from peelaudit.errors import UnsupportedCheckpoint

__all__ = ["FAMILIES", "Family", "Writer", "family_of", "find_family"]


@dataclass(frozen=True, slots=True)
class Writer:
    """A matrix whose product is added to the residual stream: `path` within the block.

    `norm` is the normalisation that its product goes through before it is added, None where there is none.
    """

    path: str
    norm: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Where things are in a family's module: its blocks, the final norm, and each block's residual-writing matrices."""

    blocks: str
    norm: str
    attention: Writer
    mlp: Writer

    def is_mlp_or_output(self, name: str) -> bool:
        """Whether a parameter of a block, by its path in the skeleton, is the MLP's or the attention's output."""
        path = name.removeprefix(f"{self.blocks}.").partition(".")[2]
        attention = self.attention.path.rpartition(".")[0]
        return not path.startswith(f"{attention}.") or path == f"{self.attention.path}.weight"


_LLAMA = Family("model.layers", "model.norm", Writer("self_attn.o_proj"), Writer("mlp.down_proj"))
_POST_NORM = Family(
    "model.layers",
    "model.norm",
    Writer("self_attn.o_proj", "post_attention_layernorm"),
    Writer("mlp.down_proj", "post_feedforward_layernorm"),
)

FAMILIES: Mapping[str, Family] = {
    "gpt2": Family("transformer.h", "transformer.ln_f", Writer("attn.c_proj"), Writer("mlp.c_proj")),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "phi3": _LLAMA,
    "smollm3": _LLAMA,
    "bitnet": _LLAMA,
    "gemma3_text": _POST_NORM,
    "olmo2": _POST_NORM,
    "gpt_neox": Family(
        "gpt_neox.layers", "gpt_neox.final_layer_norm", Writer("attention.dense"), Writer("mlp.dense_4h_to_h")
    ),
    "opt": Family(
        "model.decoder.layers", "model.decoder.final_layer_norm", Writer("self_attn.out_proj"), Writer("fc2")
    ),
    "phi": Family("model.layers", "model.final_layernorm", Writer("self_attn.dense"), Writer("mlp.fc2")),
}
"""By transformers' `model_type`. A family stands here when a test proves it against transformers' own loss."""


def family_of(checkpoint: Checkpoint) -> Family:
    """The table's entry. Raises UnsupportedCheckpoint as `find_family`."""
    config = checkpoint.config
    return find_family(checkpoint.info.path, config.model_type, config.to_dict())


def find_family(name: str, model_type: str, values: Mapping[str, Any]) -> Family:
    """The table's entry, by a checkpoint's name for messages, its `model_type` and its configuration's values.

    Values that are left out count as the family's usual ones: a config.json will do, before anything is built of it.

    Raises:
        UnsupportedCheckpoint: there is none, or this variant of the family can't be peeled.
    """
    family = FAMILIES.get(model_type)
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedCheckpoint(f"{name}: family {model_type!r} is not one that can be audited ({known})")
    if values.get("do_layer_norm_before") is False:
        raise UnsupportedCheckpoint(f"{name}: blocks that end in a norm (do_layer_norm_before false) can't be peeled")
    narrow, width = values.get("word_embed_proj_dim"), values.get("hidden_size")
    if None not in (narrow, width) and narrow != width:
        raise UnsupportedCheckpoint(f"{name}: embeddings narrower than the residual stream can't be audited")
    return family
