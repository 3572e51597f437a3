"""compressed-tensors, as llm-compressor writes it.

    pack-quantized  weight_packed      [outputs, inputs * bits / 32] int32   code + 2^(bits-1), lowest bits first
                    weight_shape       [2]                                   outputs and inputs
                    weight_zero_point  [outputs * bits / 32, groups] int32   packed along the outputs; left out if 0
    nvfp4-pack-     weight_packed      [outputs, inputs / 2] uint8           two 4-bit floats (e2m1), low bits first
                    weight_scale       [outputs, inputs / 16] float8
                    weight_global_scale  [1]                                 what all weight_scale are divided by
    mxfp4-pack-     weight_packed      as nvfp4's
                    weight_scale       [outputs, inputs / 32] uint8          an exponent of 2
    mxfp8-          weight             [outputs, inputs] float8              its scales as mxfp4's
    the others      weight             [outputs, inputs] int8 or float8      the code itself
                    weight_zero_point  as weight_scale                       int8; left out if 0
    most            weight_scale       [1], [outputs, 1], [outputs, groups] or [row blocks, column blocks] float
                    weight_g_idx       [inputs]                              the group of each input, where reordered

A weight is scale * (code - zero). Bits and groups are those that the shapes show and the configuration has too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized.integer_groups import INDEX, IntegerGroup, IntegerGroups
from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.packing import each_column, group_index, unpack, words_for
from peelaudit.checkpoints.quantized.small_floats import EXPONENTS, FLOAT8, Blocks, e2m1, e8m0
from peelaudit.checkpoints.store import FLOATS

__all__ = ["CompressedTensors"]

_NVFP4, _MXFP4, _MXFP8 = "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized"
_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", _NVFP4, _MXFP4, _MXFP8)
_GROUP_KEYS = frozenset({"targets", "weights", "input_activations", "output_activations", "format"})
_WEIGHT_KEYS = frozenset(
    {"num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder"}
    | {"scale_dtype", "zp_dtype", "observer", "observer_kwargs"}
)


class CompressedTensors(Method):
    """Integers of 1 to 8 bits or 8-bit floats, one scale a tensor, output, group of inputs, or block."""

    parts = (
        "weight_packed",
        "weight_shape",
        "weight_scale",
        "weight_zero_point",
        "weight_g_idx",
        "weight_global_scale",
        "weight",
        "input_scale",
        "input_global_scale",
        "input_zero_point",
        "output_scale",
        "output_zero_point",
    )
    marks = ("weight_packed", "weight_scale")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        groups = self._groups()
        self._formats = self._check_formats(groups)
        self._integers = IntegerGroups(settings, groups)
        if any(group.get("input_activations") or group.get("output_activations") for group in groups):
            self.notes = (settings.left_out("rounded activations"),)

    def _check_formats(self, groups: list[Mapping[str, Any]]) -> frozenset[str]:
        """The formats that layers may have."""
        settings = self.settings
        formats = {settings.choice("format", (*_FORMATS, "mixed-precision"), None)}
        for group in groups:
            settings.refuse_unknown(group, _GROUP_KEYS)
            settings.refuse_unknown(group.get("weights"), _WEIGHT_KEYS)
            if group.get("format") not in (None, *_FORMATS):
                raise settings.unsupported("a group of layers in another format than " + ", ".join(_FORMATS))
            formats.add(group.get("format"))
        sparsity, transforms = settings.values.get("sparsity_config"), settings.values.get("transform_config")
        if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
            raise settings.unsupported("a sparse format (sparsity_config), which isn't read")
        if isinstance(transforms, dict) and transforms.get("config_groups"):
            raise settings.unsupported("transforms of the states (transform_config), which aren't computed")
        return frozenset(formats - {None})

    def _groups(self) -> list[Mapping[str, Any]]:
        groups = self.settings.values.get("config_groups")
        found = list(groups.values()) if isinstance(groups, dict) else []
        if not found or not all(isinstance(group, dict) for group in found):
            raise self.settings.malformed("config_groups doesn't describe how layers are packed")
        return found

    def layout(self, module: StoredModule) -> Layout | None:
        """The size by `weight_shape` or by the codes themselves; None for a layer that is left as floats."""
        plain = module.tensors.get("weight")
        if plain is not None and plain.dtype not in ("int8", *FLOAT8) and "weight_scale" not in module.tensors:
            return None
        if plain is None and not {*self.marks, "weight_shape"} & set(module.tensors):
            return None  # what has only scales of activations, of keys and values
        packed = module.tensors.get("weight_packed")
        if packed is not None and packed.dtype == "uint8":
            return self._layout4(module)
        group: IntegerGroup | None
        if "weight_packed" in module.tensors or "weight" not in module.tensors:
            (outputs, inputs), group = self._integers.packed(module)
        else:
            outputs, inputs = module.shape("weight", 2, ("int8", *FLOAT8))
            group = self._integers.plain(module)
        if group is not None and not group.symmetric and "weight_zero_point" not in module.tensors:
            raise module.mismatched("its weight_zero_point is missing")
        code = module.tensors["weight"].dtype if group is None else f"int{group.bits}"
        sharing = _sharing(module, outputs, inputs, self._scales(code))
        return Layout(outputs, inputs, str(PackedType("compressed-tensors", code, sharing)))

    def _scales(self, code: str) -> Collection[str]:
        """What the scales of such codes may be stored as."""
        if code not in FLOAT8 or _MXFP8 not in self._formats:
            return FLOATS
        return EXPONENTS if self._formats <= {_MXFP8, _NVFP4, _MXFP4} else (*FLOATS, *EXPONENTS)

    def _layout4(self, module: StoredModule) -> Layout:
        """The same for 4-bit floats, whose scales say of which of the two formats they are."""
        outputs, half = module.shape("weight_packed", 2, ("uint8",))
        info = module.tensors.get("weight_scale")
        wanted = _MXFP4 if info and info.dtype == "uint8" else _NVFP4
        if wanted not in self._formats:
            raise module.mismatched(f"its tensors are those of {wanted}, which the configuration doesn't have")
        if wanted == _NVFP4:
            module.number("weight_global_scale")
            sharing = _NVFP4_GROUPS.sharing(module, outputs, 2 * half, ("float8_e4m3fn",))
        elif "weight_global_scale" in module.tensors:
            raise module.mismatched(f"{_MXFP4} has no weight_global_scale")
        else:
            sharing = _MXFP4_GROUPS.sharing(module, outputs, 2 * half, EXPONENTS)
        return Layout(outputs, 2 * half, str(PackedType("compressed-tensors", "fp4", sharing)))

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """The matrix, scale * (code - zero), [outputs, inputs]."""
        if layout.dtype.startswith("compressed-tensors-fp4"):
            return self._weight4(module, layout)
        bits = PackedType.parse(layout.dtype).bits  # type: ignore[union-attr]
        if "weight_packed" in module.tensors and bits:
            codes = unpack(module.read("weight_packed"), bits, layout.inputs).float() - (1 << (bits - 1))
        else:
            codes = module.read("weight").float()
        scale = module.read("weight_scale")
        scale = e8m0(scale.view(torch.uint8)) if module.tensors["weight_scale"].dtype in EXPONENTS else scale.float()
        zero = self._zero(module, layout, bits)
        columns = _blocks(scale.shape)[1]
        index = group_index(module, "weight_g_idx", layout.inputs, columns) if columns > 1 else None
        if zero is not None:
            codes -= _spread(zero.reshape(scale.shape), layout, index)
        return codes * _spread(scale, layout, index)

    def _weight4(self, module: StoredModule, layout: Layout) -> Tensor:
        size, codes = (layout.outputs, layout.inputs), e2m1(module.read("weight_packed"))
        if "weight_global_scale" not in module.tensors:
            return codes * _MXFP4_GROUPS.scales(module, *size)
        divisor = module.number("weight_global_scale")
        if divisor == 0:
            raise module.malformed("its weight_global_scale is 0")
        return codes * (_NVFP4_GROUPS.scales(module, *size) / divisor)

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


_NVFP4_GROUPS = Blocks("weight_scale", 1, 16)
_MXFP4_GROUPS = Blocks("weight_scale", 1, 32)


def _blocks(scale: tuple[int, ...]) -> tuple[int, int]:
    """How many rows and columns of scales there are."""
    rows, columns = (*scale, 1, 1)[:2]
    return rows, columns


def _sharing(module: StoredModule, outputs: int, inputs: int, dtypes: Collection[str]) -> str:
    """Which weights share a scale, as a `PackedType` says it, by the scales' shape."""
    shape = module.shape("weight_scale", module.rank("weight_scale", 2), dtypes)
    rows, columns = _blocks(shape)
    listed = "weight_g_idx" in module.tensors and columns > 1
    if listed and module.shape("weight_g_idx", 1, INDEX) != (inputs,):
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
