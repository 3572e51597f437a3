"""GGUF's names of a network's tensors, by the gguf library's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from peelaudit.checkpoints.gguf_architectures import ARCHITECTURES, Architecture
from peelaudit.checkpoints.gguf_part import library
from peelaudit.errors import UnsupportedCheckpoint

__all__ = ["names_in_gguf", "stored_names"]

_ENDS = (".weight", ".bias")
_RENAMED = {
    "mlp.experts.gate_up_proj": "mlp.experts.gate_proj",
    "block_sparse_moe.experts.gate_up_proj": "mlp.experts.gate_proj",
    "block_sparse_moe.experts.down_proj": "mlp.experts.down_proj",
    "block_sparse_moe.router.": "block_sparse_moe.router.layer.",
    "shared_mlp.input_linear.": "mlp.shared_expert.gate_proj.",
    "mlp.gate.e_score_correction_bias": "mlp.gate.e_score_correction.bias",
}
"""Transformers' names that gguf's table hasn't, and others that it has instead: of what is joined the first part's."""
_ALIKE = {
    "deepseek_v3": "deepseek_v2",
    "granitemoeshared": "granitemoe",
    "ministral3": "mistral",
    "olmo3": "olmo2",
}
"""Families that share an architecture with another one, by which it is known; a file's values tell which it is."""


def stored_names(gguf: Any, architecture: str, skeleton: torch.nn.Module) -> dict[str, str]:
    """The skeleton's name of every tensor that a file may have.

    Args:
        gguf: the library.
        architecture: GGUF's name of it.
        skeleton: the network without weights.
    """
    config: Any = skeleton.config
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    base = f"{skeleton.base_model_prefix}."
    found: dict[str, str] = {}
    for name in skeleton.state_dict():
        for known in (name, name.removeprefix(base)):
            if (there := _stored_name(table, known)) is not None:
                found.setdefault(there, name)
    return found


def _stored_name(table: Any, name: str) -> str | None:
    """GGUF's name of a parameter."""
    if (there := table.get_name(name, try_suffixes=_ENDS)) is not None:
        return str(there) if there.endswith(_ENDS) else f"{there}.weight"
    for own, known in _RENAMED.items():
        there = table.get_name(name.replace(own, known), try_suffixes=_ENDS) if own in name else None
        if there is not None:
            first = str(there).removesuffix(".weight")
            first = first.replace("_gate_", "_gate_up_") if "gate_proj" in known else first
            return first if first.endswith(".bias") else f"{first}.weight"
    return None


def names_in_gguf(skeleton: torch.nn.Module) -> Mapping[str, tuple[str, ...]]:
    """The names of a network's tensors in a GGUF file, by the skeleton's; two for what is kept apart there.

    Raises:
        UnsupportedCheckpoint: the family has no architecture there, or the gguf library isn't installed.
    """
    config: Any = skeleton.config
    family = str(config.model_type)
    gguf = library(family)
    name, architecture = _architecture(family)
    if name not in gguf.MODEL_ARCH_NAMES.values():
        raise UnsupportedCheckpoint(f"{family}: no architecture of GGUF is known for this family")
    apart = {} if architecture is None else {both: (first, second) for first, second, both, _ in architecture.joined}
    return {own: _apart(there, apart) for there, own in stored_names(gguf, name, skeleton).items()}


def _architecture(family: str) -> tuple[str, Architecture | None]:
    """GGUF's architecture of one of transformers' families, by the name of both where nothing else is known."""
    known = _ALIKE.get(family, family)
    for name, one in ARCHITECTURES.items():
        for own in (one, one.mixture):
            if own is not None and own.family == known:
                return name, own
    return family, None


def _apart(name: str, apart: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    for both, parts in apart.items():
        if name.endswith(f".{both}"):
            return tuple(f"{name.removesuffix(both)}{part}" for part in parts)
    return (name,)
