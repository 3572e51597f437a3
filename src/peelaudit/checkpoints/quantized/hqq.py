"""HQQ (half-quadratic quantisation), as transformers and hqq save it to safetensors: settings are tensors too.

    W_q              codes, packed along the rows: the first share of them is in the highest bits of each word
    scale, zero      [rows, 1] where each row of codes has its own (axis 1), [1, columns] where each column (axis 0)
    shape            [2]        outputs and inputs
    nbits, axis      numbers    and how often codes are packed, `packing`, the bytes of a name
    view_as_float    0 or 1     whether W_q is stored under a float's dtype

A weight is scale * (code - zero); rows are of `group_size` neighbouring inputs on axis 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.store import FLOATS, READABLE

__all__ = ["Hqq"]

_PACKINGS = {
    "8bit_u8": (8, torch.uint8, 1),
    "4bit_u8": (4, torch.uint8, 2),
    "3bit_32": (3, torch.int32, 10),
    "2bit_u8": (2, torch.uint8, 4),
    "1bit_u8": (1, torch.uint8, 8),
}
"""The bits of a code, the words, and how many codes are in one."""
_CODES = {8: "8bit_u8", 6: "8bit_u8", 5: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8", 1: "1bit_u8"}
_SETTINGS = ("nbits", "axis", "packing", "shape", "view_as_float", "quant_scale", "quant_zero")
_UNUSED = ("group_size", "channel_wise", "optimize", "round_zero", "unpack_view_dtype", "compute_dtype", "offload_meta")
_FLAGS = ("encoded_state_dict", "stores_quant_config")
_MOST_BYTES, _LARGEST = 64, 1 << 31


class Hqq(Method):
    """Integers in groups of neighbouring weights, each with a scale and a zero that are any floats."""

    parts = ("W_q", "scale", "zero", *_SETTINGS, *_UNUSED, *_FLAGS)
    marks = ("W_q",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        found = settings.values.get("quant_config")
        if isinstance(found, dict) and (found.get("scale_quant_params") or found.get("zero_quant_params")):
            raise settings.unsupported("scales or zeros that are quantised themselves, which isn't read")

    def layout(self, module: StoredModule) -> Layout | None:
        """The size by the `shape` stored, which the codes must have room for, and no more."""
        if not {"W_q", "nbits", "encoded_state_dict"} & set(module.tensors):
            return None
        for part in ("quant_scale", "quant_zero"):
            if part in module.tensors and _number(module, part):
                raise module.mismatched(f"its {part} is set: scales that are quantised themselves aren't read")
        outputs, inputs = _shape(module)
        bits, rows, columns = self._codes(module, outputs * inputs)
        axis = _number(module, "axis")
        if axis not in (0, 1):
            raise module.mismatched(f"its axis is {axis:g}")
        scales = (rows, 1) if axis == 1 else (1, columns)
        for part in ("scale", "zero"):
            if module.shape(part, 2) != scales:
                raise module.mismatched(f"its {part} isn't {scales[0]} × {scales[1]}")
        sharing = "block"
        if axis == 1 and inputs % columns == 0:
            sharing = "row" if columns == inputs else f"g{columns}"
        return Layout(outputs, inputs, str(PackedType("hqq", f"int{bits}", sharing)))

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """Scale * (code - zero), [outputs, inputs]."""
        name = _packing(module)
        bits, word, per_word = _PACKINGS[name]
        words = module.read("W_q").view(word)
        shares = [words >> bits * (per_word - 1 - place) & (2**bits - 1) for place in range(per_word)]
        rows = layout.outputs * layout.inputs // words.shape[1]
        codes = torch.cat(shares)[:rows].float()
        values = (codes - module.read("zero").float()) * module.read("scale").float()
        return values.reshape(layout.outputs, layout.inputs)

    def _codes(self, module: StoredModule, count: int) -> tuple[int, int, int]:
        """The bits that a code has of those that it could, and the rows and columns of codes that the words hold."""
        bits, word, per_word = _PACKINGS[_packing(module)]
        stored, columns = module.shape("W_q", 2, (str(word).removeprefix("torch."), *FLOATS))
        info = module.tensors["W_q"]
        if (info.dtype in FLOATS) != bool(_number(module, "view_as_float")):
            raise module.mismatched(f"its W_q is stored as {info.dtype}, which its view_as_float contradicts")
        columns = info.bytes // stored // word.itemsize
        rows = count // columns
        if count % columns or math.ceil(rows / per_word) != stored or (bits != 3 and rows % per_word):
            raise module.mismatched(f"its W_q doesn't hold {count} codes of {bits} bits")
        return min(bits, math.ceil(_number(module, "nbits"))), rows, columns


def _packing(module: StoredModule) -> str:
    """The name of the packing, which must be that of the bits."""
    name, bits = bytes(_small(module, "packing", 1).byte().tolist()).decode("latin-1"), _number(module, "nbits")
    whole = 2 if abs(bits - 1.58) < 0.01 else bits
    if name not in _PACKINGS or name != next((packing for known, packing in _CODES.items() if known == whole), None):
        raise module.mismatched(f"its packing is {quoted(name, 20)}, for codes of {bits:g} bits")
    return name


def _shape(module: StoredModule) -> tuple[int, int]:
    shape = _small(module, "shape", 1).tolist()
    if len(shape) != 2 or not all(type(size) is int and 0 < size <= _LARGEST for size in shape):
        raise module.mismatched(f"its shape is {quoted(shape, 40)}")
    return shape[0], shape[1]


def _number(module: StoredModule, part: str) -> float:
    found = _small(module, part, 0)
    if found.numel() != 1:
        raise module.mismatched(f"its {part} isn't one number")
    return float(found)


def _small(module: StoredModule, part: str, rank: int) -> Tensor:
    """A setting, of a few bytes."""
    module.shape(part, rank, READABLE)
    if module.tensors[part].bytes > _MOST_BYTES:
        raise module.mismatched(f"its {part} has {module.tensors[part].bytes} bytes")
    return module.read(part)
