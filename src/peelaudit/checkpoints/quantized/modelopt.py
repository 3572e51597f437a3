"""NVIDIA's Model Optimizer (modelopt), as its export for Hugging Face writes it.

    FP8    weight          [outputs, inputs] float8
           weight_scale    [], or [outputs] where each has its own
    NVFP4  weight          [outputs, inputs / 2] uint8     two 4-bit floats (e2m1) in each, the first in the low bits
           weight_scale    [outputs, inputs / 16] float8   of groups of inputs
           weight_scale_2  []                              of the scales themselves
    both   input_scale     []                              of inputs that kernels round

A weight is code * weight_scale * weight_scale_2. The settings are in config.json's `quantization_config`, or in a
hf_quant_config.json beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.small_floats import Blocks, e2m1, row_or_tensor

__all__ = ["ModelOpt", "settings_beside"]

_FLOAT8 = "float8_e4m3fn"
_DTYPES = {"FP8": _FLOAT8, "FP8_PER_CHANNEL_PER_TOKEN": _FLOAT8, "NVFP4": "uint8"}
_MIXED = "MIXED_PRECISION"
_GROUP = 16


class ModelOpt(Method):
    """8-bit floats, one scale for the matrix or each output, or 4-bit ones in groups whose scales are 8-bit floats."""

    parts = ("weight", "weight_scale", "weight_scale_2", "input_scale")
    marks = ("weight_scale",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        algorithm = settings.choice("quant_algo", (*_DTYPES, _MIXED), None)
        layers = settings.values.get("quantized_layers")
        if algorithm == _MIXED:
            listed = list(layers.values()) if isinstance(layers, dict) else [None]
            if not all(isinstance(layer, dict) and str(layer.get("quant_algo")) in _DTYPES for layer in listed):
                raise settings.unsupported(f"quantized_layers of other kinds than {', '.join(_DTYPES)}")
        self._dtypes = (*_DTYPES.values(),) if algorithm == _MIXED else (_DTYPES[algorithm],)
        settings.choice("group_size", (_GROUP,), _GROUP)
        settings.refuse("has_zero_point", "pre_quant_scale")
        self.notes = (settings.left_out("rounded inputs"),)

    def layout(self, module: StoredModule) -> Layout | None:
        """The size by the codes, which the scales must cover; None for a layer that is left as floats."""
        plain = module.tensors.get("weight")
        if (plain is None or plain.dtype not in (_FLOAT8, "uint8")) and "weight_scale" not in module.tensors:
            return None
        outputs, inputs = module.shape("weight", 2, self._dtypes)
        if module.tensors["weight"].dtype != "uint8":
            if "weight_scale_2" in module.tensors:
                raise module.mismatched("8-bit floats have no weight_scale_2")
            sharing = row_or_tensor(module, "weight_scale", outputs, inputs).sharing(module, outputs, inputs)
            return Layout(outputs, inputs, str(PackedType("modelopt", _FLOAT8, sharing)))
        inputs *= 2
        sharing = _GROUPS.sharing(module, outputs, inputs, (_FLOAT8,))
        module.number("weight_scale_2")
        return Layout(outputs, inputs, str(PackedType("modelopt", "fp4", sharing)))

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """Code * scale, [outputs, inputs]."""
        size, stored = (layout.outputs, layout.inputs), module.read("weight")
        if "weight_scale_2" not in module.tensors:
            return stored.float() * row_or_tensor(module, "weight_scale", *size).scales(module, *size)
        return e2m1(stored) * (_GROUPS.scales(module, *size) * module.number("weight_scale_2"))


_GROUPS = Blocks("weight_scale", 1, _GROUP)


def settings_beside(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `quantization_config` that a hf_quant_config.json stands for; none where only keys and values are rounded."""
    details = values.get("quantization")
    details = details if isinstance(details, dict) else {}
    if details.get("quant_algo") is None:
        return {}
    return {
        **{key: value for key, value in values.items() if key != "quantization"},
        **details,
        "quant_method": "modelopt",
    }
