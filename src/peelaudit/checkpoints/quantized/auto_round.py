"""AutoRound: GPTQ's tensors or AWQ's, under settings of its own.

`packing_format` says which. Those named after gptq keep zero - 1, summed as whole words, so that a zero of 0 borrows
from its neighbour; `auto_round` alone and `gptqmodel` keep zero itself.
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


def auto_round(settings: Settings) -> Method:
    """The method whose tensors the packing format means.

    Raises:
        UnsupportedCheckpoint, MalformedCheckpoint: as `Method`.
    """
    settings.refuse_unknown(settings.values, KEYS["auto-round"])
    packing = settings.choice("packing_format", tuple(_PACKINGS), "auto_round:gptq")
    settings.choice("data_type", ("int",), "int")
    settings.choice("act_bits", (16, 32), 16)
    method, name, format_values = _PACKINGS[packing]
    shared = {key: settings.values.get(key) for key in ("bits", "group_size", "sym")}
    return method(Settings({**shared, **format_values}, name, settings.subject))
