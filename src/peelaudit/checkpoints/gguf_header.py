"""The header of a GGUF file, walked with every length checked against the file before it is believed.

    4 bytes "GGUF", version u32, number of tensors u64, number of values u64
    values:   key (string), type u32, value     string: length u64, UTF-8 bytes     array: type u32, length u64, items
    tensors:  name (string), rank u32, dimensions u64 (fastest first), type u32, offset u64 within the data
    data:     from the next multiple of `general.alignment`

The libraries read such headers too, but loop over lengths that the file can't hold and accept overlapping tensors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from peelaudit.checkpoints.files import OpenFile, quoted
from peelaudit.checkpoints.store import MAX_TENSORS
from peelaudit.errors import MalformedCheckpoint, UnreadableCheckpoint, UnsupportedCheckpoint

__all__ = ["GgufHeader", "GgufTensor", "read_header"]

Value = int | float | bool | str | list[int | float | bool] | None

_MAX_HEADER = 128 << 20
_MAX_VALUES = 10_000
_MAX_STRINGS = 4_000_000
_MAX_RANK = 4
_MAX_DIMENSION = 1 << 40
_MAX_ALIGNMENT = 1 << 20
_KEPT_ITEMS = 4096
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: `shape` in torch's order, `kind` is ggml's number of its type, `offset` is within the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header says: `values` are scalars, strings and short arrays of numbers, `lengths` is of all arrays."""

    values: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensors: tuple[GgufTensor, ...]
    data: int


class _Cursor:
    """A position in the header's bytes that can't leave them."""

    def __init__(self, file: OpenFile) -> None:
        self._data = bytes(file.read(0, min(file.size, _MAX_HEADER)))
        self._subject = quoted(file.path)
        self._capped = file.size > _MAX_HEADER
        self.position = 0

    def damage(self, what: str) -> MalformedCheckpoint:
        return MalformedCheckpoint(f"{self._subject}: {what}")

    @property
    def left(self) -> int:
        """How many bytes follow the current position."""
        return len(self._data) - self.position

    def room(self, count: int) -> int:
        """The current position, after moving `count` bytes on."""
        begin = self.position
        if count > len(self._data) - begin:
            more = (
                "is longer than any model's" if self._capped else "is truncated, or promises more than the file holds"
            )
            raise self.damage(f"its header {more}")
        self.position = begin + count
        return begin

    def number(self, code: str) -> int:
        """One scalar of a struct code."""
        found: int = struct.unpack_from(f"<{code}", self._data, self.room(struct.calcsize(f"<{code}")))[0]
        return found

    def numbers(self, code: str, count: int) -> list[int]:
        """`count` scalars of a struct code."""
        width = struct.calcsize(f"<{code}")
        return list(struct.unpack_from(f"<{count}{code}", self._data, self.room(count * width)))

    def text(self) -> str:
        """One string."""
        length = self.number("Q")
        begin = self.room(length)
        try:
            return self._data[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.damage("holds text that isn't UTF-8") from None


def read_header(file: OpenFile) -> GgufHeader:
    """Walk the header.

    Raises:
        UnreadableCheckpoint: it isn't a GGUF file.
        MalformedCheckpoint: the header is damaged, or promises more than the file holds.
        UnsupportedCheckpoint: it is of another version or byte order.
    """
    cursor = _Cursor(file)
    tensor_count, value_count = _counts(cursor, file)
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(value_count):
        key = cursor.text()
        if key in values or key in lengths:
            raise cursor.damage(f"has the key {quoted(key)} twice")
        _read_value(cursor, key, values, lengths)
    tensors = tuple(_read_tensor(cursor) for _ in range(tensor_count))
    if len({tensor.name for tensor in tensors}) != tensor_count:
        raise cursor.damage("has two tensors of one name")
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.damage(f"its alignment is {quoted(alignment, 20)}")
    if unaligned := next((tensor for tensor in tensors if tensor.offset % alignment), None):
        raise cursor.damage(f"the tensor {quoted(unaligned.name)} isn't aligned")
    return GgufHeader(values, lengths, tensors, -(-cursor.position // alignment) * alignment)


def _counts(cursor: _Cursor, file: OpenFile) -> tuple[int, int]:
    """How many tensors and values follow, after checking what stands before."""
    subject = quoted(file.path)
    if file.size == 0:
        raise cursor.damage("is empty")
    if bytes(file.read(0, min(file.size, 4))) != b"GGUF":
        raise UnreadableCheckpoint(f"{subject}: isn't a GGUF file")
    cursor.room(4)
    version = cursor.number("I")
    if version and version & 0xFFFF == 0:
        raise UnsupportedCheckpoint(f"{subject}: was written for big-endian machines")
    if version not in (2, 3):
        raise UnsupportedCheckpoint(f"{subject}: is GGUF version {version}; versions 2 and 3 are read")
    tensors, values = cursor.numbers("Q", 2)
    if tensors > MAX_TENSORS or values > _MAX_VALUES:
        raise cursor.damage(f"promises {tensors} tensors and {values} values, more than any model has")
    return tensors, values


def _read_value(cursor: _Cursor, key: str, values: dict[str, Value], lengths: dict[str, int]) -> None:
    kind = cursor.number("I")
    if kind in _SCALARS:
        values[key] = cursor.number(_SCALARS[kind])
    elif kind == _STRING:
        values[key] = cursor.text()
    elif kind == _ARRAY:
        item, length = cursor.number("I"), cursor.number("Q")
        lengths[key] = length
        if item in _SCALARS and length <= _KEPT_ITEMS:
            values[key] = list(cursor.numbers(_SCALARS[item], length))
        elif item in _SCALARS:
            cursor.room(length * struct.calcsize(f"<{_SCALARS[item]}"))
        elif item == _STRING:
            if length > _MAX_STRINGS and length * 8 <= cursor.left:
                raise cursor.damage(f"the array {quoted(key)} has {length} strings, more than any vocabulary")
            for _ in range(length):  # ends with the file: every string takes eight bytes or more
                cursor.text()
        else:
            raise cursor.damage(f"the array {quoted(key)} holds values of type {item}, which isn't read")
    else:
        raise cursor.damage(f"the value {quoted(key)} is of the unknown type {kind}")


def _read_tensor(cursor: _Cursor) -> GgufTensor:
    name = cursor.text()
    rank = cursor.number("I")
    if not 1 <= rank <= _MAX_RANK:
        raise cursor.damage(f"the tensor {quoted(name)} has {rank} dimensions")
    shape = tuple(reversed(cursor.numbers("Q", rank)))
    if not all(0 < size <= _MAX_DIMENSION for size in shape) or math.prod(shape) > _MAX_DIMENSION:
        raise cursor.damage(f"the tensor {quoted(name)} has an impossible shape")
    return GgufTensor(name, shape, cursor.number("I"), cursor.number("Q"))
