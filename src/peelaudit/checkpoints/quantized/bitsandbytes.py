"""bitsandbytes, in 8 bits (LLM.int8) and in 4 (QLoRA).

8 bits  weight         [outputs, inputs] int8    weights are code * SCB / 127
        SCB            [outputs] float           the largest magnitude of each output
        weight_format  a number                  0, by rows; others are of a GPU's own order
4 bits  weight         bytes                     two codes in each, the first in the high bits, row after row
        weight.quant_map     [16] float          what the codes mean, times
        weight.absmax        [blocks] float      the largest magnitude of each block of weights
        weight.quant_state.bitsandbytes__nf4     JSON as bytes: quant_type, blocksize, shape …
        weight.nested_absmax, nested_quant_map   where absmax is itself in 8 bits (double quantisation):
                                                 nested_quant_map[absmax] * nested_absmax + nested_offset
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from peelaudit.checkpoints.files import parse_json, quoted
from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.store import READABLE

__all__ = ["BitsAndBytes"]

_STATES = {f"weight.quant_state.bitsandbytes__{kind}": kind for kind in ("nf4", "fp4")}
_MOST_JSON = 1 << 16


class BitsAndBytes(Method):
    """8-bit integers by output channel, or 4-bit codes of a table in blocks of neighbouring weights."""

    parts = (
        "SCB",
        "weight_format",
        "weight.absmax",
        "weight.quant_map",
        "weight.nested_absmax",
        "weight.nested_quant_map",
        *_STATES,
        "weight",
    )
    marks = ("SCB", "weight.absmax")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if settings.flag("load_in_8bit"):
            self.notes = (settings.left_out("8-bit inputs (LLM.int8)"),)

    def layout(self, module: StoredModule) -> Layout | None:
        """The size by the 8-bit codes or by the 4-bit state; None for a layer that is left as floats."""
        if any(part.startswith("weight.") for part in module.tensors):
            return self._layout4(module)
        packed = module.tensors.get("weight")
        if "SCB" not in module.tensors and (packed is None or packed.dtype != "int8"):
            return None
        outputs, inputs = module.shape("weight", 2, ("int8",))
        if module.shape("SCB", 1) != (outputs,):
            raise module.mismatched(f"its SCB isn't one scale for each of {outputs} outputs")
        if "weight_format" in module.tensors and _only(module, "weight_format") != 0:
            raise module.mismatched("its weight_format isn't 0: the codes are in a GPU's own order")
        return Layout(outputs, inputs, str(PackedType("bitsandbytes", "int8", "row")))

    def _layout4(self, module: StoredModule) -> Layout:
        kind, state = _state(module)
        shape, block = state.get("shape"), _whole(module, state, "blocksize")
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(size) is int and size > 0 for size in shape):
            raise module.malformed(f"the shape in its quant_state is {quoted(shape, 40)}")
        outputs, inputs = shape
        count, stored = outputs * inputs, module.tensors.get("weight")
        width = READABLE[stored.dtype].itemsize if stored is not None and stored.dtype in READABLE else 1
        if stored is None or not 0 <= stored.bytes * 2 - count < 2 * width:
            raise module.mismatched(f"its weight doesn't hold {outputs} × {inputs} codes of 4 bits")
        blocks = -(-count // block)
        nested = "weight.nested_absmax" in module.tensors
        _check_count(module, "weight.absmax", blocks, ("uint8",) if nested else None)
        _check_count(module, "weight.quant_map", 16)
        if nested:
            _check_count(module, "weight.nested_quant_map", 256)
            _check_count(module, "weight.nested_absmax", -(-blocks // _whole(module, state, "nested_blocksize")))
        sharing = f"g{block}" if inputs % block == 0 else "block"
        return Layout(outputs, inputs, str(PackedType("bitsandbytes", kind, sharing)))

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """The matrix, [outputs, inputs]."""
        if "SCB" in module.tensors:
            return module.read("weight").float() * (module.read("SCB").float()[:, None] / 127)
        _, state = _state(module)
        stored = module.read("weight").reshape(-1).view(torch.uint8)
        codes = torch.stack([stored >> 4, stored & 15], dim=1).reshape(-1)[: layout.outputs * layout.inputs]
        scales = module.read("weight.absmax").reshape(-1)
        if "weight.nested_absmax" in module.tensors:
            offset = state.get("nested_offset")
            if not isinstance(offset, int | float):
                raise module.malformed(f"the nested_offset in its quant_state is {quoted(offset, 40)}")
            names = ("weight.nested_quant_map", "weight.nested_absmax")
            table, outer = (module.read(name).reshape(-1) for name in names)
            scales = _by_block(table, scales, outer, _whole(module, state, "nested_blocksize")) + offset
        table = module.read("weight.quant_map").reshape(-1)
        return _by_block(table, codes, scales, _whole(module, state, "blocksize")).reshape(
            layout.outputs, layout.inputs
        )


def _by_block(table: Tensor, codes: Tensor, scales: Tensor, block: int) -> Tensor:
    """table[codes], each block of so many times its scale; float32, of the codes' length."""
    values = torch.nn.functional.pad(table.float()[codes.int()], (0, -len(codes) % block))
    return (values.reshape(-1, block) * scales.float()[:, None]).reshape(-1)[: len(codes)]


def _state(module: StoredModule) -> tuple[str, Mapping[str, object]]:
    """The kind of the codes, and the JSON beside them."""
    part = next((part for part in _STATES if part in module.tensors), None)
    if part is None:
        raise module.mismatched("its weight.quant_state is missing")
    info = module.tensors[part]
    if info.dtype != "uint8" or info.bytes > _MOST_JSON:
        raise module.malformed("its weight.quant_state isn't JSON as bytes")
    raw = bytes(module.read(part).reshape(-1).tolist())
    state = parse_json(raw, f"{module.subject}: the weight.quant_state of {quoted(module.name)}")
    if not isinstance(state, dict) or state.get("quant_type") != _STATES[part]:
        raise module.malformed(f"its weight.quant_state isn't one of {_STATES[part]}")
    return _STATES[part], state


def _whole(module: StoredModule, state: Mapping[str, object], name: str) -> int:
    """A length in the JSON."""
    found = state.get(name)
    if type(found) is not int or not 0 < found <= 1 << 20:
        raise module.malformed(f"the {name} in its quant_state is {quoted(found, 40)}")
    return found


def _check_count(module: StoredModule, part: str, count: int, dtypes: tuple[str, ...] | None = None) -> None:
    """Raise MismatchedWeights unless a part is there, with so many numbers of the dtypes (floats unless told)."""
    info = module.tensors.get(part)
    shape = module.shape(part, len(info.shape) if info else 1, *([dtypes] if dtypes else []))
    if math.prod(shape) != count:
        raise module.mismatched(f"its {part} has {math.prod(shape)} numbers, not {count}")


def _only(module: StoredModule, part: str) -> float:
    """The one number of a part."""
    stored = module.read(part)
    if stored.numel() != 1:
        raise module.mismatched(f"its {part} isn't one number")
    return float(stored)
