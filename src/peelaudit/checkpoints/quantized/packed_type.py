"""How a matrix is packed, as the one word that stands where other tensors have their dtype: `gptq-int4-g128`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

__all__ = ["PackedType"]

_WORD = re.compile(r"(?P<method>[a-z0-9_-]+)-(?P<code>[a-z0-9_]+)-(?P<scales>tensor|row|block|mixed|g[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class PackedType:
    """What a matrix is packed as.

    Attributes:
        method: the `quant_method` of the configuration.
        code: what a weight is: `int4`, `ternary`, `nf4`, `float8_e4m3fn`.
        scales: which weights share a scale: those of the `tensor`, of a `row` (an output channel), of a `block` of rows
            and columns, of `g128` neighbouring inputs, or of a group of inputs that the file lists (`mixed`).
    """

    method: str
    code: str
    scales: str

    def __str__(self) -> str:
        return f"{self.method}-{self.code}-{self.scales}"

    @property
    def group(self) -> int | None:
        """How many neighbouring inputs share a scale; None where another set of weights does."""
        return int(self.scales[1:]) if self.scales.startswith("g") else None

    @property
    def bits(self) -> int | None:
        """The bits of an integer code; None for other codes."""
        found = re.fullmatch(r"int([1-8])", self.code)
        return None if found is None else int(found[1])

    @classmethod
    def parse(cls, dtype: str) -> Self | None:
        """What `str` made a dtype of; None for the dtypes of other tensors."""
        found = _WORD.fullmatch(dtype)
        return None if found is None else cls(**found.groupdict())

    @classmethod
    def integers(cls, dtype: str) -> tuple[int, int | None]:
        """The bits and the group of a dtype that stands for integer codes."""
        found = cls.parse(dtype)
        if found is None or found.bits is None:
            raise ValueError(f"{dtype} isn't one of integers")
        return found.bits, found.group
