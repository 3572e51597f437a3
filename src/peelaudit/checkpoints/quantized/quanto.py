"""optimum-quanto, as it saves a model to safetensors.

    8 bits   weight._data        [outputs, inputs] int8 or float8
             weight._scale       [outputs, 1]
    4 and 2  weight._data._data  [rows / 2 or / 4, columns] uint8   the first share of the rows is in the lowest bits
             weight._scale       [rows, 1]                          of a row of neighbouring inputs
             weight._shift       [rows, 1]                          a float is taken off scale * code, a whole number
                                                                    off the code
    all      input_scale, output_scale                              of activations, where these are rounded too

Which layer has how many bits is in config.json's `quantization_config`, or in a quanto_qmap.json beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.small_floats import FLOAT8
from peelaudit.checkpoints.store import FLOATS

__all__ = ["Quanto", "settings_of_map"]

_DATA, _PACKED, _SCALE, _SHIFT = "weight._data", "weight._data._data", "weight._scale", "weight._shift"
_BITS = {"int8": 8, "float8": 8, "int4": 4, "int2": 2}
_WHOLE = ("int8", "uint8", "int32")
_LAYERS = "layers"


class Quanto(Method):
    """8-bit codes with a scale for each output, or 2 and 4 bits in groups that have a shift too."""

    parts = (_PACKED, _DATA, _SCALE, _SHIFT, "input_scale", "output_scale")
    marks = (_PACKED, _DATA)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        layers = settings.values.get(_LAYERS)
        kinds = list(layers.values()) if isinstance(layers, dict) else [settings.values]
        if not all(isinstance(kind, dict) for kind in kinds):
            raise settings.malformed("a layer isn't described by a JSON object")
        each = [Settings(kind, settings.method, settings.subject) for kind in kinds]
        known = {"weights", "activations", *(("quant_method", "modules_to_not_convert") if layers is None else ())}
        for kind in each:
            kind.refuse_unknown(kind.values, known)
        names = (*_BITS, *(f"q{name}" for name in _BITS), "qfloat8_e4m3fn", "qfloat8_e5m2")
        self._bits = {_BITS[kind.choice("weights", names, "int8").lstrip("q").partition("_")[0]] for kind in each}
        if any(kind.values.get("activations") not in (None, "none") for kind in each):
            self.notes = (settings.left_out("rounded activations"),)

    def layout(self, module: StoredModule) -> Layout | None:
        """The size of 8-bit codes, or for fewer bits how many there are: the outputs are the module's own."""
        if not {_DATA, _PACKED, _SCALE, _SHIFT} & set(module.tensors):
            return None
        if _PACKED not in module.tensors:
            outputs, inputs = module.shape(_DATA, 2, ("int8", *FLOAT8))
            if module.shape(_SCALE, 2) != (outputs, 1) or _SHIFT in module.tensors or 8 not in self._bits:
                raise module.mismatched(f"its tensors aren't those of {outputs} × {inputs} weights of 8 bits")
            return Layout(outputs, inputs, str(PackedType("quanto", module.tensors[_DATA].dtype, "row")))
        stored, columns = module.shape(_PACKED, 2, ("uint8",))
        rows = module.shape(_SCALE, 2)[0]
        bits = next((bits for bits in self._bits - {8} if math.ceil(rows * bits / 8) == stored), None)
        if bits is None or _DATA in module.tensors or module.tensors[_SCALE].shape != (rows, 1):
            raise module.mismatched(f"its weight is {stored} × {columns} bytes, for {rows} rows of codes")
        if module.shape(_SHIFT, 2, (*FLOATS, *_WHOLE)) != (rows, 1):
            raise module.mismatched(f"its {_SHIFT} isn't {rows} × 1")
        return Layout(rows, columns, str(PackedType("quanto", f"int{bits}", f"g{columns}")), in_rows=True)

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """Scale * code - shift, or scale * (code - shift) for whole shifts."""
        scale = module.read(_SCALE).float()
        if _PACKED not in module.tensors:
            return module.read(_DATA).float() * scale
        words, shift = module.read(_PACKED), module.read(_SHIFT)
        bits = PackedType.parse(layout.dtype).bits or 8  # type: ignore[union-attr]
        shares = [words >> bits * place & (2**bits - 1) for place in range(8 // bits)]
        codes = torch.cat(shares)[: layout.outputs].float()
        return codes * scale - shift.float() if shift.is_floating_point() else (codes - shift.float()) * scale


def settings_of_map(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `quantization_config` that a quanto_qmap.json stands for."""
    return {_LAYERS: dict(values), "quant_method": "quanto"}
