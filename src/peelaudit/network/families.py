"""Which networks can be audited: told by name where structure can't tell or must not be built, else by structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from peelaudit.checkpoints import Checkpoint
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.network.parts import Family, Unclear
from peelaudit.network.structure import find_structure

__all__ = ["admit", "family_of"]

_REFUSED: Mapping[str, tuple[str, ...]] = {
    "its blocks are recurrent, or some of them are": (
        *("bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2"),
        *("lfm2_moe", "lfm3", "mamba", "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text"),
        *("qwen3_5_text", "qwen3_next", "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2"),
    ),
    "its layers are not modules that are called one after another": (
        *("dory", "hrm_text", "inkling2_loop_text", "reformer", "xlm", "xlnet"),
    ),
    "its blocks are given the tokens besides, or other blocks' keys and values": ("gemma3n_text",),
    "its experts are computed in a way that isn't known": ("dbrx", "longcat_flash"),
    "what its blocks add to the residual stream isn't a linear map's product": ("deepseek_v4", "inkling2_text"),
    "it is the decoder of an encoder-decoder": ("trocr",),
    "it is a part of a model of more than text": ("blt", "git", "musicgen", "musicgen_melody", "phi4_multimodal"),
}
"""Why, and transformers' `model_type` of those that are refused before anything is built of their configuration."""


_KNOWN: dict[str, Family] = {}
"""By what they follow from, a configuration and its modules: it takes some 50 ms a layer to find out, and an audit asks
as it opens a checkpoint and as it loads the network.
"""


def admit(name: str, model_type: str, values: Mapping[str, Any], skeleton: nn.Module | None = None) -> None:
    """Say whether a network can be audited, as soon as that can be said.

    Args:
        name: the checkpoint's, for messages.
        model_type: transformers' name of the family.
        values: of its configuration.
        skeleton: its module on the meta device, once that is built; it is used up.

    Raises:
        UnsupportedCheckpoint: it can't be.
    """
    if skeleton is not None:
        _structure(name, model_type, skeleton)
        return
    if values.get("use_bidirectional_attention") in (True, "all") or values.get("is_causal") is False:
        raise UnsupportedCheckpoint(_refusal(name, model_type, "its attention looks at later tokens"))
    for reason, families in _REFUSED.items():
        if model_type in families:
            raise UnsupportedCheckpoint(_refusal(name, model_type, reason))


def family_of(checkpoint: Checkpoint) -> Family:
    """The structure of a checkpoint's network.

    Raises:
        UnsupportedCheckpoint: it can't be audited.
    """
    config = checkpoint.config
    admit(checkpoint.info.path, config.model_type, config.to_dict())
    return _structure(checkpoint.info.path, config.model_type, checkpoint.skeleton())


def _structure(name: str, model_type: str, skeleton: nn.Module) -> Family:
    described = f"{cast('Any', skeleton).config.to_json_string(use_diff=False)}{skeleton!r}"
    if described not in _KNOWN:
        try:
            _KNOWN[described] = find_structure(skeleton)
        except Unclear as error:
            raise UnsupportedCheckpoint(_refusal(name, model_type, str(error))) from None
    return _KNOWN[described]


def _refusal(name: str, model_type: str, reason: str) -> str:
    return f"{name}: the family {model_type!r} can't be audited: {reason}"
