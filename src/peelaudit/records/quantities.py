"""What a figure of a report is, said once, at the field that holds it.

    redundancy: Annotated[Estimate, Quantity("redundancy", "the error of leaving the block out", Form.RATIO)]

The tables of every format, the columns of the CSV, the descriptions in the JSON's schema and the metrics of a gate are
made from these declarations. A new figure needs its field, and its value where the record is made.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

__all__ = ["Form", "Quantity", "quantities_of"]


class Form(StrEnum):
    """What kind of number a figure is, and so how it is written."""

    LOSS = "loss"
    """nats/token, without a sign."""
    GAP = "gap"
    """nats/token, a difference: with its sign, and its interval beside it."""
    RATIO = "ratio"
    """Without a unit or a sign."""

    @property
    def unit(self) -> str:
        """The unit; empty for a ratio."""
        return "" if self is Form.RATIO else "nats/token"


@dataclass(frozen=True, slots=True)
class Quantity:
    """One figure.

    Attributes:
        label: its name in a list of figures; `{readout}` and `{best}` stand for what the report has.
        words: what it is, as half a sentence.
        form: what kind of number.
        column: its header in a table of layers, the label if empty; None where it has no column.
        part: whether it is a part of the figure above it.
        gated: whether a gate's rule may limit it.
        needs: what a report without it would have had to be.
        item: which entry it is, where the field holds several.
        key: the field's name, that in JSON, and the metric's in a gate's rule; `quantities_of` knows it.
    """

    label: str
    words: str
    form: Form = Form.LOSS
    column: str | None = ""
    part: bool = False
    gated: bool = False
    needs: str = "a report that has it"
    item: int | None = None
    key: str = ""

    @property
    def header(self) -> str:
        """Its header in a table of layers."""
        return self.column or self.label

    def of(self, record: Any) -> Any:
        """The figure in a record: an `Estimate`, or None where it hasn't any."""
        value = getattr(record, self.key)
        if self.item is None:
            return value
        return value[self.item] if self.item < len(value) else None


@functools.cache
def quantities_of(kind: type) -> Mapping[str, Quantity]:
    """A record's figures by key, in the order of its fields; formats ask for every figure that they write."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        for one in getattr(hint, "__metadata__", ()):
            if isinstance(one, Quantity):
                found[name] = dataclasses.replace(one, key=name)
    return MappingProxyType(found)
