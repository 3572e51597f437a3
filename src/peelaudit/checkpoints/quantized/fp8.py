"""8-bit floats, as DeepSeek, Qwen and others ship them: codes times scales.

    weight            [outputs, inputs] float8
    weight_scale_inv  [blocks down, blocks across]   `fp8`: one a block of `weight_block_size`, a float or (`scale_fmt`
                                                     ue8m0, and `mxfp8`, in blocks of 1 × 32) an exponent in a byte
    weight_scale      [] or [outputs, 1]             `fp8` without blocks, `fbgemm_fp8`
    input_scale, activation_scale                    of inputs that kernels round

A weight is code * scale in all of them, whatever the scale is called.
"""

from __future__ import annotations

from torch import Tensor

from peelaudit.checkpoints.files import quoted
from peelaudit.checkpoints.quantized.method import Layout, Method, Settings, StoredModule
from peelaudit.checkpoints.quantized.packed_type import PackedType
from peelaudit.checkpoints.quantized.small_floats import EXPONENTS, FLOAT8, Blocks, row_or_tensor
from peelaudit.checkpoints.store import FLOATS

__all__ = ["Float8"]

_CODES = {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}
_BLOCKED, _PLAIN = "weight_scale_inv", "weight_scale"


class Float8(Method):
    """8-bit floats, one scale a block, an output or a tensor."""

    parts = ("weight", _BLOCKED, _PLAIN, "input_scale", "activation_scale")
    marks = (_BLOCKED, _PLAIN)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._code = _CODES[settings.choice("fmt", tuple(_CODES), "e4m3")]
        settings.choice("activation_scheme", ("dynamic", "static"), "dynamic")
        settings.choice("scale_fmt", ("float", "ue8m0"), "float")
        settings.choice("expert_dtype", ("fp8",), "fp8")
        self._block = self._block_size()
        self.notes = (settings.left_out("inputs rounded to 8-bit floats"),)

    def _block_size(self) -> tuple[int, int] | None:
        """How many outputs and inputs share a `weight_scale_inv`; None where all do."""
        usual = [1, 32] if self.settings.method == "mxfp8" else [128, 128]
        found = self.settings.values.get("weight_block_size", usual)
        if found is None:
            return None
        if not isinstance(found, list) or len(found) != 2 or not all(type(size) is int and size > 0 for size in found):
            raise self.settings.malformed(f"weight_block_size is {quoted(found, 40)}")
        return found[0], found[1]

    def layout(self, module: StoredModule) -> Layout | None:
        """The size by the codes, which the scales must cover; None for a layer that is left as floats."""
        plain = module.tensors.get("weight")
        if not set(self.marks) & set(module.tensors) and (plain is None or plain.dtype not in FLOAT8):
            return None  # a norm; or what has only scales of inputs, which have no place then
        outputs, inputs = module.shape("weight", 2, (self._code,))
        blocks = self._blocks(module, outputs, inputs)
        dtypes = (*FLOATS, *(EXPONENTS if blocks.part == _BLOCKED else ()))
        sharing = blocks.sharing(module, outputs, inputs, dtypes)
        return Layout(outputs, inputs, str(PackedType(self.settings.method, self._code, sharing)))

    def _blocks(self, module: StoredModule, outputs: int, inputs: int) -> Blocks:
        if _PLAIN not in module.tensors:
            return Blocks(_BLOCKED, *(self._block or (outputs, inputs)))
        if _BLOCKED in module.tensors:
            raise module.mismatched(f"it has both {_BLOCKED} and {_PLAIN}")
        return row_or_tensor(module, _PLAIN, outputs, inputs)

    def weight(self, module: StoredModule, layout: Layout) -> Tensor:
        """Code * scale, [outputs, inputs]."""
        size = layout.outputs, layout.inputs
        return module.read("weight").float() * self._blocks(module, *size).scales(module, *size)
