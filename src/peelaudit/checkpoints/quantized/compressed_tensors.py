"""compressed-tensors, as llm-compressor writes it.

    pack-quantized  weight_packed      [outputs, inputs * bits / 32] int32   code + 2^(bits-1), lowest bits first
                    weight_shape       [2]                                   outputs and inputs
                    weight_zero_point  [outputs * bits / 32, groups] int32   packed along the outputs; left out if 0
    the others      weight             [outputs, inputs] int8 or float8      the code itself
                    weight_zero_point  as weight_scale                       int8; left out if 0
    all             weight_scale       [1], [outputs, 1], [outputs, groups] or [row blocks, column blocks] float
                    weight_g_idx       [inputs]                              the group of each input, where reordered

A weight is scale * (code - zero). Bits and groups are those that the shapes show and the configuration has too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.packing import each_column, group_index, unpack, words_for

__all__ = ["CompressedTensors"]

_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized")
_FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
_INDEX = ("int64", "int32")


class CompressedTensors(Method):
    """Integers of 1 to 8 bits or 8-bit floats, one scale a tensor, output, group of inputs, or block."""

    parts = (
        "weight_packed",
        "weight_shape",
        "weight_scale",
        "weight_zero_point",
        "weight_g_idx",
        "weight",
        "input_scale",
        "input_zero_point",
        "output_scale",
        "output_zero_point",
    )
    marks = ("weight_packed", "weight_scale")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._check_formats()
        groups = self._groups()
        weights = [group["weights"] for group in groups if isinstance(group.get("weights"), dict)]
        numbers = [scheme.get("num_bits", 8) for scheme in weights if scheme.get("type", "int") == "int"]
        if not all(type(bits) is int and 1 <= bits <= 8 for bits in numbers):
            raise settings.unsupported("a num_bits that isn't 1 to 8, which isn't read")
        self._bits = tuple(sorted(set(numbers)))
        if any(group.get("input_activations") or group.get("output_activations") for group in groups):
            self.notes = (settings.left_out("rounded activations"),)

    def _check_formats(self) -> None:
        settings = self.settings
        settings.choice("format", (*_FORMATS, "mixed-precision"), None)
        for group in self._groups():
            if group.get("format") not in (None, *_FORMATS):
                raise settings.unsupported("a group of layers in another format than " + ", ".join(_FORMATS))
        sparsity, transforms = settings.values.get("sparsity_config"), settings.values.get("transform_config")
        if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
            raise settings.unsupported("a sparse format (sparsity_config), which isn't read")
        if isinstance(transforms, dict) and transforms.get("config_groups"):
            raise settings.unsupported("transforms of the states (transform_config), which aren't computed")

    def _groups(self) -> list[Mapping[str, Any]]:
        groups = self.settings.values.get("config_groups")
        found = list(groups.values()) if isinstance(groups, dict) else []
        if not found or not all(isinstance(group, dict) for group in found):
            raise self.settings.malformed("config_groups doesn't describe how layers are packed")
        return found

    def layout(self, module: StoredModule) -> Layout | None:
        """The size by `weight_shape` or by the codes themselves; None for a layer that is left as floats."""
        plain = module.tensors.get("weight")
        if plain is not None and plain.dtype not in ("int8", *_FLOAT8) and "weight_scale" not in module.tensors:
            return None
        if plain is None and not {*self.marks, "weight_shape"} & set(module.tensors):
            return None  # what has only scales of activations, of keys and values
        if "weight_packed" in module.tensors or "weight" not in module.tensors:
            outputs, inputs, bits = self._packed_size(module)
            code = f"int{bits}"
        else:
            outputs, inputs = module.shape("weight", 2, ("int8", *_FLOAT8))
            dtype = module.tensors["weight"].dtype
            code = f"int{self._bits[-1] if self._bits else 8}" if dtype == "int8" else dtype
        return Layout(outputs, inputs, str(PackedType("compressed-tensors", code, _sharing(module, outputs, inputs))))

    def _packed_size(self, module: StoredModule) -> tuple[int, int, int]:
        """Outputs, inputs, and the bits that make the packed columns as many as they are."""
        rows, words = module.shape("weight_packed", 2, ("int32",))
        if module.shape("weight_shape", 1, _INDEX) != (2,):
            raise module.mismatched("its weight_shape isn't two numbers")
        outputs, inputs = map(int, module.read("weight_shape"))
        bits = next((bits for bits in self._bits if words_for(inputs, bits) == words), None)
        if rows != outputs or inputs < 1 or bits is None:
            known = " or ".join(map(str, self._bits))
            raise module.mismatched(
                f"its weight_packed is {rows} × {words}, not {outputs} × {inputs} of {known} bits, densely packed"
            )
        return outputs, inputs, bits

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """The matrix, scale * (code - zero), [outputs, inputs]."""
        bits = PackedType.parse(layout.dtype).bits  # type: ignore[union-attr]
        if "weight_packed" in module.tensors and bits:
            codes = unpack(module.read("weight_packed"), bits, layout.inputs).float() - (1 << (bits - 1))
        else:
            codes = module.read("weight").float()
        scale = module.read("weight_scale").float()
        zero = self._zero(module, layout, bits)
        columns = _blocks(scale.shape)[1]
        index = group_index(module, "weight_g_idx", layout.inputs, columns) if columns > 1 else None
        if zero is not None:
            codes -= _spread(zero.reshape(scale.shape), layout, index)
        return codes * _spread(scale, layout, index)

    def _zero(self, module: StoredModule, layout: Layout, bits: int | None) -> Tensor | None:
        """The zero points, as many as there are scales."""
        if "weight_zero_point" not in module.tensors:
            return None
        info, scale = module.tensors["weight_zero_point"], module.tensors["weight_scale"].shape
        stored = module.read("weight_zero_point")
        rows, groups = _blocks(scale)
        if info.dtype == "int32" and "weight_packed" in module.tensors and bits and rows == layout.outputs:
            if info.shape != (words_for(layout.outputs, bits), groups):
                raise module.mismatched(f"its weight_zero_point has the shape {list(info.shape)}")
            return (unpack(stored.T, bits, layout.outputs).float() - (1 << (bits - 1))).T
        if stored.numel() != torch.Size(scale).numel():
            raise module.mismatched(f"its weight_zero_point has the shape {list(info.shape)}, its scale {list(scale)}")
        return stored.float()


def _blocks(scale: tuple[int, ...]) -> tuple[int, int]:
    """How many rows and columns of scales there are."""
    rows, columns = (*scale, 1, 1)[:2]
    return rows, columns


def _sharing(module: StoredModule, outputs: int, inputs: int) -> str:
    """Which weights share a scale, as a `PackedType` says it, by the scales' shape."""
    info = module.tensors.get("weight_scale")
    shape = module.shape("weight_scale", min(len(info.shape), 2) if info else 2)
    rows, columns = _blocks(shape)
    listed = "weight_g_idx" in module.tensors and columns > 1
    if listed and module.shape("weight_g_idx", 1, _INDEX) != (inputs,):
        raise module.mismatched(f"its weight_g_idx isn't one group for each of {inputs} inputs")
    if outputs % rows or (inputs % columns and not listed):
        raise module.mismatched(f"its weight_scale is {rows} × {columns}, which doesn't divide {outputs} × {inputs}")
    if rows == 1 and columns == 1:
        return "tensor"
    if rows != outputs:
        return "block"
    if columns == 1:
        return "row"
    return "mixed" if listed else f"g{inputs // columns}"


def _spread(table: Tensor, layout: Layout, index: Tensor | None) -> Tensor:
    """The scales or zero points of all weights, as a shape that [outputs, inputs] can be multiplied by."""
    rows, columns = _blocks(table.shape)
    table = table.reshape(rows, columns)
    if rows not in (1, layout.outputs):
        table = table.repeat_interleave(layout.outputs // rows, dim=0)
    if columns == 1:
        return table
    return each_column(table, torch.arange(layout.inputs) // (layout.inputs // columns) if index is None else index)
