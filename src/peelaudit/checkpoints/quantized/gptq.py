"""GPTQ, as AutoGPTQ, optimum and GPTQModel write it.

    qweight  [inputs * bits / 32, outputs] int32   the codes of 32 / bits inputs in a word, lowest bits first
    qzeros   [groups, outputs * bits / 32] int32   the code that means 0, packed along the outputs
    scales   [groups, outputs] float
    g_idx    [inputs] int32                        the group of each input; left out in some files

A weight is scale * (code - zero). The first format keeps zero - 1, `gptq_v2` zero itself. Layers may differ in bits and
groups, by GPTQModel's `dynamic`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.overrides import layout_that_fits, variants
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
        every = variants(settings)
        self._kinds = dict.fromkeys(_kind(one) for one in every)
        self._ordered = any(one.flag("desc_act") for one in every)
        name = "format" if settings.values.get("checkpoint_format") is None else "checkpoint_format"
        self._shifted = settings.choice(name, ("gptq", "gptq_v2"), "gptq") == "gptq"
        settings.refuse("is_marlin_format")
        meta = settings.values.get("meta")
        self._borrows = "gptqmodel" in str(meta.get("quantizer") if isinstance(meta, dict) else "")

    def layout(self, module: StoredModule) -> Layout:
        """The size by `scales` and `g_idx`, which the packed tensors must have room for, and no more."""
        return layout_that_fits(module, self._kinds, self._layout)

    def _layout(self, module: StoredModule, kind: tuple[int, int | None]) -> Layout:
        """The same by bits and a group's length, None for all inputs."""
        bits, length = kind
        words, outputs = module.shape("qweight", 2, _WORDS)
        groups, columns = module.shape("scales", 2)
        inputs = words * 32 // bits
        if listed := "g_idx" in module.tensors:
            (inputs,) = module.shape("g_idx", 1, ("int32", "int64"))
        if words != words_for(inputs, bits):
            raise module.mismatched(f"its qweight has {words} rows, not those of {inputs} inputs of {bits} bits")
        group = length or inputs
        if columns != outputs or groups != -(-inputs // group):
            raise module.mismatched(
                f"its scales are {groups} × {columns}, for {outputs} outputs and {inputs} inputs in groups of {group}"
            )
        if module.shape("qzeros", 2, _WORDS) != (groups, words_for(outputs, bits)):
            raise module.mismatched(f"its qzeros aren't {groups} × {words_for(outputs, bits)}")
        scales = "row" if groups == 1 else "mixed" if self._ordered and listed else f"g{group}"
        return Layout(outputs, inputs, str(PackedType("gptq", f"int{bits}", scales)))

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """Scale * (code - zero), [outputs, inputs]."""
        bits, group = PackedType.integers(layout.dtype)
        scales = module.read("scales").float().T
        index = group_index(module, "g_idx", layout.inputs, scales.shape[1])
        if index is None and scales.shape[1] > 1:
            index = torch.arange(layout.inputs) // (group or layout.inputs)
        zeros = self._zeros(module.read("qzeros"), bits, layout.outputs).T
        codes = unpack(module.read("qweight").T, bits, layout.inputs).float()
        return (codes - each_column(zeros, index)) * each_column(scales, index)

    def _zeros(self, words: Tensor, bits: int, outputs: int) -> Tensor:
        """The zero points, [groups, outputs].

        GPTQModel subtracts 1 from each with a borrow out of the next number where it is 0, so it is added as a whole
        word; AutoGPTQ's kernels add 1 to each number.
        """
        if self._shifted and self._borrows and bits in _ONES:
            return unpack((words.long() + _ONES[bits]) & 0xFFFF_FFFF, bits, outputs).float()
        zeros = unpack(words, bits, outputs).float()
        if not self._shifted:
            return zeros
        return (zeros + 1) % 2**bits if self._borrows else zeros + 1


def _kind(settings: Settings) -> tuple[int, int | None]:
    """The bits of a code, and how many inputs share a scale."""
    settings.choice("pack_dtype", ("int32",), "int32")
    return int(settings.choice("bits", (2, 3, 4, 8), None)), settings.group_size()
