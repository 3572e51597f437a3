"""A `.safetensors` file: its header, checked before anything is believed, and one tensor at a time.

    8 bytes   header length N, little-endian
    N bytes   JSON: {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {...}}
    the rest  the tensors' bytes; the ranges cover it exactly

The library reads such headers too, but accepts duplicate keys and huge dimensions, and maps the file into memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from peelaudit.checkpoints.files import OpenFile, parse_json, quoted
from peelaudit.checkpoints.store import FLOATS, MAX_TENSORS, as_bytes, read_tensor
from peelaudit.errors import MalformedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["SafetensorsFile"]

_MAX_HEADER = 16 << 20
_MAX_RANK = 8
_MAX_DIMENSION = 1 << 40
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


class SafetensorsFile:
    """The tensors of one `.safetensors` file."""

    format = "safetensors"
    floats: Collection[str] = FLOATS

    def __init__(self, path: Path) -> None:
        """Read and check the header.

        Raises:
            UnreadableCheckpoint: there is no such file.
            MalformedCheckpoint: the header is damaged, or contradicts itself or the file.
        """
        self.paths = (path,)
        self._file = OpenFile(path)
        try:
            entries, self._data = _header(self._file)
            self._begins = {name: begin for name, (_, begin) in entries.items()}
            self.tensors: Mapping[str, TensorInfo] = {name: info for name, (info, _) in entries.items()}
            _check_cover(path, entries, self._file.size - self._data)
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name, on the CPU."""
        info = self.tensors[name]
        return read_tensor(self._file, self._data + self._begins[name], info.dtype, info.shape, name)

    def overwrite(self, handle: BinaryIO, name: str, tensor: torch.Tensor) -> None:
        """Put a tensor of the stored shape and dtype into the place of that one, in a copy of the file."""
        handle.seek(self._data + self._begins[name])
        handle.write(as_bytes(tensor))

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def _header(file: OpenFile) -> tuple[dict[str, tuple[TensorInfo, int]], int]:
    """Each tensor with the offset of its bytes within the data, and the offset of the data within the file."""
    subject = quoted(file.path)
    if file.size == 0:
        raise MalformedCheckpoint(f"{subject}: is empty")
    if file.size < 8:
        raise MalformedCheckpoint(f"{subject}: {file.size} bytes are too few for a safetensors file")
    length = int.from_bytes(file.read(0, 8), "little")
    if not 2 <= length <= file.size - 8:
        raise MalformedCheckpoint(f"{subject}: isn't a safetensors file, or is truncated: its header's length is wrong")
    if length > _MAX_HEADER:
        raise MalformedCheckpoint(f"{subject}: its header of {length} bytes is too long for a model")
    raw = bytes(file.read(8, length))
    if not raw.startswith(b"{"):
        raise MalformedCheckpoint(f"{subject}: isn't a safetensors file: its header doesn't begin with a brace")
    header = parse_json(raw, f"{subject}: the header")
    if not isinstance(header, dict):
        raise MalformedCheckpoint(f"{subject}: its header isn't a JSON object")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise MalformedCheckpoint(f"{subject}: {len(header)} tensors are more than any model has")
    return {name: _entry(subject, name, entry) for name, entry in header.items()}, 8 + length


def _entry(subject: str, name: str, entry: object) -> tuple[TensorInfo, int]:
    """One tensor and the offset of its bytes, with its numbers checked."""
    where = f"{subject}: the tensor {quoted(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise MalformedCheckpoint(f"{where} isn't described by dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise MalformedCheckpoint(f"{where} has the unknown dtype {quoted(entry['dtype'], 20)}")
    dtype, width = _DTYPES[entry["dtype"]]
    shape = _sizes(entry["shape"], _MAX_RANK)
    offsets = _sizes(entry["data_offsets"], 2, 1 << 62)
    if shape is None:
        raise MalformedCheckpoint(f"{where} has an impossible shape")
    if offsets is None or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * width:
        raise MalformedCheckpoint(f"{where} has a shape that disagrees with its bytes")
    return TensorInfo(name, shape, dtype, offsets[1] - offsets[0]), offsets[0]


def _sizes(value: object, most: int, limit: int = _MAX_DIMENSION) -> tuple[int, ...] | None:
    """`value` as a tuple of at most `most` whole numbers up to `limit`, or None if it isn't one."""
    if not isinstance(value, list) or len(value) > most:
        return None
    sizes = tuple(size for size in value if type(size) is int and 0 <= size <= limit)
    return sizes if len(sizes) == len(value) else None


def _check_cover(path: Path, entries: Mapping[str, tuple[TensorInfo, int]], size: int) -> None:
    """Raise MalformedCheckpoint unless the tensors lie side by side from the first byte to the last."""
    end = 0
    for name, (info, begin) in sorted(entries.items(), key=lambda item: (item[1][1], item[1][0].bytes)):
        if begin != end:
            what = "overlaps another" if begin < end else "leaves a hole before it"
            raise MalformedCheckpoint(f"{quoted(path)}: the tensor {quoted(name)} {what}")
        end = begin + info.bytes
    if end > size:
        raise MalformedCheckpoint(f"{quoted(path)}: is truncated: {end - size} bytes of tensors are missing")
    if end < size:
        raise MalformedCheckpoint(f"{quoted(path)}: has {size - end} bytes after its last tensor")
