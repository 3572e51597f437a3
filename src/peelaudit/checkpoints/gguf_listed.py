"""Parameters that a GGUF file stores as values beside its tensors, one number for each layer: Apertus' activations."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.gguf_architectures import ARCHITECTURES
from peelaudit.checkpoints.gguf_header import GgufHeader
from peelaudit.errors import MalformedCheckpoint

__all__ = ["listed_parameters"]


def listed_parameters(header: GgufHeader, subject: str) -> Mapping[str, torch.Tensor]:
    """The parameters under transformers' names for them.

    Raises:
        MalformedCheckpoint: a list is missing, or isn't one number for each layer.
    """
    name = header.values.get("general.architecture")
    architecture, layers = ARCHITECTURES.get(str(name)), header.values.get(f"{name}.block_count")
    found: dict[str, torch.Tensor] = {}
    if architecture is None or layers is None:
        return found  # which is refused when the configuration is read
    for key, within, rank in architecture.listed:
        values = header.values.get(key)
        if not isinstance(values, list) or len(values) != layers:
            raise MalformedCheckpoint(f"{subject}: {quoted(key)} isn't a number for each layer")
        for layer, value in enumerate(values):
            found[f"model.layers.{layer}.{within}"] = torch.tensor(float(value)).reshape((1,) * rank)
    return found
