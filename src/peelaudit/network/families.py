"""The one table of families: where a module has its blocks and its final norm, and what a block writes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from peelaudit.checkpoints import Checkpoint
from peelaudit.errors import UnsupportedCheckpoint

__all__ = ["FAMILIES", "Family", "Writer", "family_of"]


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
    """The table's entry.

    Raises:
        UnsupportedCheckpoint: there is none, or this variant of the family can't be peeled.
    """
    config = checkpoint.config
    family = FAMILIES.get(config.model_type)
    name = checkpoint.info.path
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedCheckpoint(f"{name}: family {config.model_type!r} is not one that can be audited ({known})")
    if not getattr(config, "do_layer_norm_before", True):
        raise UnsupportedCheckpoint(f"{name}: blocks that end in a norm (do_layer_norm_before false) can't be peeled")
    if getattr(config, "word_embed_proj_dim", config.hidden_size) != config.hidden_size:
        raise UnsupportedCheckpoint(f"{name}: embeddings narrower than the residual stream can't be audited")
    return family
