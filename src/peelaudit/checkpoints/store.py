"""The tensors of files as they are stored, whatever the format, behind one small interface."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from peelaudit.checkpoints.files import Readable, quoted
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint
from peelaudit.records import TensorInfo

__all__ = [
    "FLOATS",
    "MAX_TENSORS",
    "READABLE",
    "Joined",
    "Store",
    "aligned",
    "as_bytes",
    "check_readable",
    "close_all",
    "read_tensor",
]

MAX_TENSORS = 100_000
"""More tensors than any decoder has; reading a header of more takes seconds and hundreds of MB."""

FLOATS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""The stored dtypes that are weights as they stand."""

_CODES = ("uint8", "int8", "int16", "int32", "int64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
READABLE = FLOATS | {name: getattr(torch, name) for name in _CODES if hasattr(torch, name)}
"""Those and the ones that packed weights are made of; torch has the last one since 2.7."""

_ALIGNMENT = 64
"""Bytes: where torch's own CPU tensors begin at a multiple."""


class Store(Protocol):
    """Named tensors in files. `tensors` comes from headers alone; `read` touches one tensor's bytes."""

    @property
    def format(self) -> str:
        """The name of the format."""
        ...

    @property
    def floats(self) -> Collection[str]:
        """The stored dtypes that `read` gives as floats."""
        ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that hold the tensors, in a fixed order."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor under its stored name."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name, on the CPU."""
        ...

    def close(self) -> None:
        """Release the files."""
        ...


class Joined:
    """The shards of one checkpoint as one store."""

    def __init__(self, stores: Iterable[Store]) -> None:
        self._stores = tuple(stores)
        self._home: dict[str, Store] = {}
        for store in self._stores:
            for name in store.tensors:
                if name in self._home:
                    raise MalformedCheckpoint(f"{quoted(store.paths[0])}: the tensor {quoted(name)} is in two shards")
                self._home[name] = store
        self.format = self._stores[0].format
        self.floats: Collection[str] = frozenset(dtype for store in self._stores for dtype in store.floats)
        self.paths = tuple(path for store in self._stores for path in store.paths)
        self.tensors: Mapping[str, TensorInfo] = {
            name: info for store in self._stores for name, info in store.tensors.items()
        }

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name, on the CPU."""
        return self._home[name].read(name)

    def close(self) -> None:
        """Release the files."""
        close_all(self._stores)


def close_all(stores: Iterable[Store]) -> None:
    """Release the files of all stores."""
    for store in stores:
        store.close()


def as_bytes(tensor: torch.Tensor) -> bytes:
    """The tensor's elements as they lie in a file."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def check_readable(dtype: str, path: Path, name: str) -> None:
    """Raise UnsupportedCheckpoint unless the dtype is one of `READABLE`."""
    if dtype not in READABLE:
        raise UnsupportedCheckpoint(f"{quoted(path)}: the tensor {quoted(name)} is stored as {dtype}, which isn't read")


def read_tensor(file: Readable, offset: int, dtype: str, shape: tuple[int, ...], name: str) -> torch.Tensor:
    """The tensor that lies at `offset` of a file, as it is stored, in memory that begins where torch's own does.

    Raises:
        MalformedCheckpoint: as `Readable.read`.
        UnsupportedCheckpoint: the dtype isn't one of `READABLE`.
    """
    check_readable(dtype, file.path, name)
    tensor = torch.empty(shape, dtype=READABLE[dtype])
    file.fill(offset, tensor.flatten().view(torch.uint8).numpy().data)
    return tensor


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a copy where it doesn't begin as torch's own do.

    On some processors a product of few rows is rounded otherwise where a matrix begins elsewhere: an audit that is gone
    on with wouldn't end in the undisturbed one's digits.
    """
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()
