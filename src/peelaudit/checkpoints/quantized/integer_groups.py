"""Which of compressed-tensors' `config_groups` of integers a layer is of, by what is stored of it.

Their `targets` aren't asked, which may be regular expressions: a hostile one takes for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peelaudit.checkpoints.quantized.method import Settings, StoredModule
from peelaudit.checkpoints.quantized.packing import words_for

__all__ = ["INDEX", "IntegerGroup", "IntegerGroups"]

INDEX = ("int64", "int32")
"""What sizes and indices are stored as."""
_PACKED, _PLAIN = ("pack-quantized",), ("int-quantized", "naive-quantized")


@dataclass(frozen=True, slots=True)
class IntegerGroup:
    """How a group's codes are made, and the format that they are stored in, as far as that is said."""

    bits: int
    symmetric: bool
    format: str | None


class IntegerGroups:
    """Those of the groups whose weights are integers."""

    def __init__(self, settings: Settings, groups: Sequence[Mapping[str, Any]]) -> None:
        """Read their settings.

        Raises:
            UnsupportedCheckpoint: one has more than 8 bits.
        """
        self._groups: list[IntegerGroup] = []
        for group in groups:
            weights, form = group.get("weights"), group.get("format") or settings.values.get("format")
            if not isinstance(weights, dict) or weights.get("type", "int") != "int":
                continue
            bits = weights.get("num_bits", 8)
            if type(bits) is not int or not 1 <= bits <= 8:
                raise settings.unsupported("a num_bits that isn't 1 to 8, which isn't read")
            known = form if form in (*_PACKED, *_PLAIN) else None
            self._groups.append(IntegerGroup(bits, bool(weights.get("symmetric", True)), known))

    def packed(self, module: StoredModule) -> tuple[tuple[int, int], IntegerGroup]:
        """Outputs and inputs, and the group whose bits make the packed columns as many as they are.

        Raises:
            MismatchedWeights: there is none, or there are groups of several widths.
        """
        rows, words = module.shape("weight_packed", 2, ("int32",))
        if module.shape("weight_shape", 1, INDEX) != (2,):
            raise module.mismatched("its weight_shape isn't two numbers")
        outputs, inputs = map(int, module.read("weight_shape"))
        possible = [group for group in self._groups if group.format not in _PLAIN]
        fits = [group for group in possible if words_for(inputs, group.bits) == words]
        if rows != outputs or inputs < 1 or not fits:
            raise module.mismatched(
                f"its weight_packed is {rows} × {words}, not {outputs} × {inputs} of {_widths(possible)} bits, densely"
                " packed"
            )
        return (outputs, inputs), _one(module, fits)

    def plain(self, module: StoredModule) -> IntegerGroup | None:
        """The group of codes that are stored as they are; None for 8-bit floats.

        Raises:
            MismatchedWeights: there are groups of several widths.
        """
        if module.tensors["weight"].dtype != "int8":
            return None
        possible = [group for group in self._groups if group.format not in _PACKED]
        return _one(module, possible) if possible else IntegerGroup(8, symmetric=True, format=None)


def _widths(groups: Collection[IntegerGroup]) -> str:
    return " or ".join(map(str, sorted({group.bits for group in groups})))


def _one(module: StoredModule, fits: Collection[IntegerGroup]) -> IntegerGroup:
    """The group of a layer that several fit: of those of a width one without zero points, if there is one.

    Raises:
        MismatchedWeights: they are of several widths.
    """
    if len({group.bits for group in fits}) > 1:
        raise module.mismatched(f"its codes are of {_widths(fits)} bits, and the file doesn't show which")
    return max(fits, key=lambda group: group.symmetric)
