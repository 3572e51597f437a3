"""torchao, its tensors flattened as transformers saves them to safetensors.

    Int8 and Intx  _weight_qdata       [outputs, inputs] int8       the code
                   _weight_scale       [outputs, groups] float
                   _weight_zero_point  as the scale; left out where all are 0
    Float8         _weight_qdata       [outputs, inputs] float8
                   _weight_scale       [outputs, 1], [1, 1] or blocks
    Int4, plain    _weight_qdata       [outputs, inputs / 2] int8   two codes in each, the first in the low bits
                   _weight_scale       [groups, outputs]
                   _weight_zero_point  [groups, outputs]            what a code of 0 stands for

A weight is scale * (code - zero), and scale * code + zero of Int4. Which it is, the configuration's `quant_type` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.small_floats import FLOAT8, Blocks
from peelaudit.checkpoints.store import FLOATS

__all__ = ["TorchAo"]

_KINDS = {
    "Int8WeightOnlyConfig": "int8",
    "Int8DynamicActivationInt8WeightConfig": "int8",
    "IntxWeightOnlyConfig": "intx",
    "Int8DynamicActivationIntxWeightConfig": "intx",
    "Float8WeightOnlyConfig": "float8",
    "Float8DynamicActivationFloat8WeightConfig": "float8",
    "Int4WeightOnlyConfig": "int4",
}
_CODES = {"int8": ("int8",), "intx": ("int8",), "float8": FLOAT8, "int4": ("int8", "uint8")}
_PACKINGS = {"int4_packing_format": ("PLAIN",), "intx_packing_format": ("UNPACKED_TO_INT8",)}
_INTEGERS = tuple(f"int{bits}" for bits in range(1, 9))
_VERSION = 2
_DATA, _SCALE, _ZERO = "_weight_qdata", "_weight_scale", "_weight_zero_point"


class TorchAo(Method):
    """Integers of 1 to 8 bits or 8-bit floats, in groups, rows or blocks."""

    parts = (_DATA, _SCALE, _ZERO)
    marks = (_DATA,)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        found = settings.values.get("quant_type")
        chosen = found.get("default") if isinstance(found, dict) and len(found) == 1 else None
        if not isinstance(chosen, dict) or not isinstance(chosen.get("_data"), dict):
            raise settings.unsupported(f"quant_type {quoted(found, 60)}, which isn't one configuration for all layers")
        name, version, values = str(chosen.get("_type")), chosen.get("_version"), chosen["_data"]
        if name not in _KINDS or version != _VERSION:
            known = ", ".join(_KINDS)
            raise settings.unsupported(
                f"{quoted(name, 60)} of version {quoted(version, 9)}; version {_VERSION} of {known} is read"
            )
        for key, packings in _PACKINGS.items():
            if key in values and _named(values, key) not in packings:
                raise settings.unsupported(f"{key} {quoted(_named(values, key), 40)}; only {packings[0]} can be read")
        self._kind = _KINDS[name]
        self._asymmetric = "ASYMMETRIC" in (_named(values, "mapping_type"), _named(values, "weight_mapping_type"))
        self._bits = self._kind if self._kind != "intx" else str(_named(values, "weight_dtype"))
        if self._kind == "intx" and self._bits not in _INTEGERS:
            raise settings.unsupported(f"weight_dtype {quoted(self._bits, 40)}, which isn't read")
        if "DynamicActivation" in name:
            self.notes = (settings.left_out("rounded inputs"),)

    def layout(self, module: StoredModule) -> Layout:
        """The size by the codes, which the scales must divide."""
        outputs, inputs = module.shape(_DATA, 2, _CODES[self._kind])
        if self._kind == "int4":
            return self._layout4(module, outputs, 2 * inputs)
        down, across = module.shape(_SCALE, 2)
        if outputs % down or inputs % across:
            raise module.mismatched(f"its {_SCALE} is {down} × {across}, which doesn't divide {outputs} × {inputs}")
        sharing = _blocks(module, _SCALE, outputs, inputs).sharing(module, outputs, inputs)
        if _ZERO in module.tensors:
            if self._kind == "float8":
                raise module.mismatched("8-bit floats have no zero point")
            if module.shape(_ZERO, 2, ("int8", "int32", "int64", *FLOATS)) != (down, across):
                raise module.mismatched(f"its {_ZERO} isn't {down} × {across}")
        elif self._asymmetric:
            raise module.mismatched(f"its {_ZERO} is missing")
        code = module.tensors[_DATA].dtype if self._kind == "float8" else self._bits
        return Layout(outputs, inputs, str(PackedType("torchao", code, sharing)))

    def _layout4(self, module: StoredModule, outputs: int, inputs: int) -> Layout:
        groups, columns = module.shape(_SCALE, 2)
        if columns != outputs or inputs % groups or module.shape(_ZERO, 2) != (groups, outputs):
            raise module.mismatched(f"its scales and zeros aren't groups of {inputs} inputs by {outputs} outputs")
        return Layout(
            outputs, inputs, str(PackedType("torchao", "int4", "row" if groups == 1 else f"g{inputs // groups}"))
        )

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """The matrix, [outputs, inputs]."""
        size, codes = (layout.outputs, layout.inputs), module.read(_DATA)
        if self._kind == "int4":
            nibbles = codes.view(torch.uint8)
            low = torch.stack([nibbles & 15, nibbles >> 4], dim=-1).flatten(-2).float()
            scale, zero = (_spread(module.read(part).float().T, layout.inputs) for part in (_SCALE, _ZERO))
            return (low - 16 * (low > 7)) * scale + zero
        values = codes.float()
        if _ZERO in module.tensors:
            values -= _blocks(module, _ZERO, *size).scales(module, *size)
        return values * _blocks(module, _SCALE, *size).scales(module, *size)


def _named(values: Mapping[str, Any], key: str) -> object:
    """The name of a dtype or of a choice among several, as torchao writes them to JSON."""
    found = values.get(key)
    return found.get("_data") if isinstance(found, dict) else found


def _blocks(module: StoredModule, part: str, outputs: int, inputs: int) -> Blocks:
    """The blocks that a part has a number for, by its shape, which divides the matrix."""
    down, across = module.tensors[part].shape
    return Blocks(part, outputs // down, inputs // across)


def _spread(table: Tensor, inputs: int) -> Tensor:
    return table.repeat_interleave(inputs // table.shape[1], dim=1)
