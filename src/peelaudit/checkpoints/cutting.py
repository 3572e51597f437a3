"""The configuration of a network without some of its layers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

__all__ = ["without_layers"]

_FIRST = "first_k_dense_replace"
"""How many of the first layers are dense ones."""


def without_layers(config: Any, dropped: Collection[int]) -> Any:
    """Transformers' configuration with the layers `dropped`, counted from 0, cut out.

    A list with an item for each layer is shortened, one of layers' numbers is counted anew.
    """
    layers = int(config.num_hidden_layers)
    kept = [layer for layer in range(layers) if layer not in dropped]
    values = config.to_dict()
    for name, value in values.items():
        if isinstance(value, list) and len(value) == layers:
            values[name] = [value[layer] for layer in kept]
        elif isinstance(value, list) and "layers" in name and all(type(one) is int and one < layers for one in value):
            values[name] = [kept.index(one) for one in value if one in kept]
    values[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(kept)
    if type(first := values.get(_FIRST)) is int:
        values[_FIRST] = sum(layer < first for layer in kept)
    return type(config).from_dict(values)
