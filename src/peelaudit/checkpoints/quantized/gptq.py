"""GPTQ, as AutoGPTQ, optimum and GPTQModel write it.

    qweight  [inputs * bits / 32, outputs] int32   the codes of 32 / bits inputs in a word, lowest bits first
    qzeros   [groups, outputs * bits / 32] int32   the code that means 0, packed along the outputs
    scales   [groups, outputs] float
    g_idx    [inputs] int32                        the group of each input; left out in some files

A weight is scale * (code - zero). The first format keeps zero - 1, `gptq_v2` zero itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.packing import each_column, group_index, unpack, words_for

__all__ = ["Gptq"]

_WORDS = ("int32",)
_ONES = {2: 0x5555_5555, 4: 0x1111_1111, 8: 0x0101_0101}


class Gptq(Method):
    """Integers in groups of neighbouring inputs, or in groups that `g_idx` lists (act-order)."""

    parts = ("qweight", "qzeros", "scales", "g_idx")
    marks = ("qweight",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        settings.choice("pack_dtype", ("int32",), "int32")
        self._bits = int(settings.choice("bits", (2, 3, 4, 8), None))
        self._group = settings.group_size()
        self._ordered = settings.flag("desc_act")
        name = "format" if settings.values.get("checkpoint_format") is None else "checkpoint_format"
        self._shifted = settings.choice(name, ("gptq", "gptq_v2"), "gptq") == "gptq"
        settings.refuse("is_marlin_format")
        meta = settings.values.get("meta")
        self._borrows = "gptqmodel" in str(meta.get("quantizer") if isinstance(meta, dict) else "")

    def layout(self, module: StoredModule) -> Layout:
        """The size by `scales` and `g_idx`, which the packed tensors must have room for, and no more."""
        words, outputs = module.shape("qweight", 2, _WORDS)
        groups, columns = module.shape("scales", 2)
        inputs = words * 32 // self._bits
        if "g_idx" in module.tensors:
            (inputs,) = module.shape("g_idx", 1, ("int32", "int64"))
        if words != words_for(inputs, self._bits):
            raise module.mismatched(f"its qweight has {words} rows, not those of {inputs} inputs of {self._bits} bits")
        group = self._group or inputs
        if columns != outputs or groups != -(-inputs // group):
            raise module.mismatched(
                f"its scales are {groups} × {columns}, for {outputs} outputs and {inputs} inputs in groups of {group}"
            )
        if module.shape("qzeros", 2, _WORDS) != (groups, words_for(outputs, self._bits)):
            raise module.mismatched(f"its qzeros aren't {groups} × {words_for(outputs, self._bits)}")
        scales = "row" if groups == 1 else "mixed" if self._ordered else f"g{group}"
        return Layout(outputs, inputs, str(PackedType("gptq", f"int{self._bits}", scales)))

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """Scale * (code - zero), [outputs, inputs]."""
        scales = module.read("scales").float().T
        index = group_index(module, "g_idx", layout.inputs, scales.shape[1])
        if index is None and scales.shape[1] > 1:
            index = torch.arange(layout.inputs) // (self._group or layout.inputs)
        zeros = self._zeros(module.read("qzeros"), layout.outputs).T
        codes = unpack(module.read("qweight").T, self._bits, layout.inputs).float()
        return (codes - each_column(zeros, index)) * each_column(scales, index)

    def _zeros(self, words: Tensor, outputs: int) -> Tensor:
        """The zero points, [groups, outputs].

        GPTQModel subtracts 1 from each with a borrow out of the next number where it is 0, so it is added as a whole
        word; AutoGPTQ's kernels add 1 to each number.
        """
        if self._shifted and self._borrows and self._bits in _ONES:
            return unpack((words.long() + _ONES[self._bits]) & 0xFFFF_FFFF, self._bits, outputs).float()
        zeros = unpack(words, self._bits, outputs).float()
        if not self._shifted:
            return zeros
        return (zeros + 1) % 2**self._bits if self._borrows else zeros + 1
