"""AWQ, as AutoAWQ writes it for its `gemm` kernels.

    qweight  [inputs, outputs / 8] int32   the codes of eight outputs in a word, in the order of `_ORDER`
    qzeros   [groups, outputs / 8] int32   the code that means 0, packed likewise
    scales   [groups, outputs] float

A weight is scale * (code - zero).
"""

from __future__ import annotations

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.overrides import layout_that_fits, variants
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.packing import each_column, unpack

__all__ = ["Awq"]

_WORDS = ("int32",)
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs each place of a word holds, from the lowest bits."""


class Awq(Method):
    """4-bit integers with a zero point, in groups of neighbouring inputs."""

    parts = ("qweight", "qzeros", "scales")
    marks = ("qweight",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        for name in ("version", "format", "checkpoint_format"):
            settings.choice(name, ("gemm", "GEMM"), "gemm")
        if settings.values.get("backend") == "llm-awq":
            raise settings.unsupported("the backend llm-awq, whose packing isn't read")
        self._groups = dict.fromkeys(_group(one) for one in variants(settings))

    def layout(self, module: StoredModule) -> Layout:
        """The size by `qweight`, whose rows are inputs."""
        return layout_that_fits(module, self._groups, self._layout)

    def _layout(self, module: StoredModule, length: int | None) -> Layout:
        """The same by a group's length, None for all inputs."""
        inputs, words = module.shape("qweight", 2, _WORDS)
        groups, outputs = module.shape("scales", 2)
        group = length or inputs
        if outputs != words * 8 or inputs != groups * group:
            raise module.mismatched(
                f"its scales are {groups} × {outputs}, for {words * 8} outputs and {inputs} inputs in groups of {group}"
            )
        if module.shape("qzeros", 2, _WORDS) != (groups, words):
            raise module.mismatched(f"its qzeros aren't {groups} × {words}")
        return Layout(outputs, inputs, str(PackedType("awq", "int4", "row" if groups == 1 else f"g{group}")))

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """Scale * (code - zero), [outputs, inputs]."""
        scales = module.read("scales").float().T
        index = torch.arange(layout.inputs) // (layout.inputs // scales.shape[1])
        zeros = _in_order(module.read("qzeros")).T.float()
        codes = _in_order(module.read("qweight")).T.float()
        return (codes - each_column(zeros, index)) * each_column(scales, index)


def _group(settings: Settings) -> int | None:
    """How many inputs share a scale."""
    settings.choice("bits", (4,), 4)
    return settings.group_size()


def _in_order(words: Tensor) -> Tensor:
    """The codes in the words' rows, [rows, outputs]."""
    codes = unpack(words, 4, words.shape[1] * 8).reshape(len(words), -1, 8)
    return codes[..., torch.tensor(_ORDER).argsort()].reshape(len(words), -1)
