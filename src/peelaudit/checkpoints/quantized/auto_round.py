"""AutoRound: GPTQ's tensors or AWQ's, under settings of its own.

`packing_format` says which. Those named after gptq keep zero - 1, summed as whole words, so that a zero of 0 borrows
from its neighbour; `auto_round` alone and `gptqmodel` keep zero itself. `extra_config` has layers of other widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peelaudit.checkpoints.quantized.awq import Awq
from peelaudit.checkpoints.quantized.config_keys import KEYS
from peelaudit.checkpoints.quantized.gptq import Gptq
from peelaudit.checkpoints.quantized.method import Method, Settings

__all__ = ["auto_round"]

_LESS_ONE = {"checkpoint_format": "gptq", "meta": {"quantizer": "gptqmodel"}}
_AS_IT_IS = {"checkpoint_format": "gptq_v2"}
_PACKINGS: Mapping[str, tuple[type[Method], str, Mapping[str, Any]]] = {
    "auto_round:gptq": (Gptq, "gptq", _LESS_ONE),
    "auto_round:auto_gptq": (Gptq, "gptq", _LESS_ONE),
    "auto_round:gptqmodel": (Gptq, "gptq", _AS_IT_IS),
    "auto_round": (Gptq, "gptq", _AS_IT_IS),
    "auto_round:awq": (Awq, "awq", {}),
    "auto_round:auto_awq": (Awq, "awq", {}),
}


_SHARED = ("bits", "group_size", "sym")
_OF_A_LAYER = frozenset(
    {*_SHARED, "data_type", "act_bits", "act_data_type", "act_dynamic", "act_group_size", "act_sym", "in_blocks"}
    | {"scale_dtype", "super_bits", "super_group_size"}
)
_FLOATS = 16
"""The bits of a layer that isn't packed, or more."""


def auto_round(settings: Settings) -> Method:
    """The method whose tensors the packing format means.

    Raises:
        UnsupportedCheckpoint, MalformedCheckpoint: as `Method`.
    """
    settings.refuse_unknown(settings.values, KEYS["auto-round"])
    packing = settings.choice("packing_format", tuple(_PACKINGS), "auto_round:gptq")
    method, name, format_values = _PACKINGS[packing]
    values = {**_packing(settings), "dynamic": _of_layers(settings), **format_values}
    return method(Settings(values, name, settings.subject))


def _packing(settings: Settings) -> dict[str, Any]:
    """What of the settings says how layers are packed, once it is known that their weights alone are."""
    settings.choice("data_type", ("int",), "int")
    settings.choice("act_bits", (16, 32), 16)
    return {key: settings.values[key] for key in _SHARED if settings.values.get(key) is not None}


def _of_layers(settings: Settings) -> dict[str, dict[str, Any]]:
    """Layers that were packed otherwise, as GPTQModel writes them."""
    found = settings.values.get("extra_config") or {}
    if not isinstance(found, dict) or not all(isinstance(changes, dict) for changes in found.values()):
        raise settings.malformed("extra_config isn't a JSON object of each layer's settings")
    layers: dict[str, dict[str, Any]] = {}
    for layer, changes in found.items():
        settings.refuse_unknown(changes, _OF_A_LAYER)
        bits = changes.get("bits")
        if type(bits) is not int or bits < _FLOATS:
            layers[f"+:{layer}"] = _packing(Settings(changes, settings.method, settings.subject))
    return layers
