"""A file of `torch.save`: its objects with tensors that have no bytes yet, and the bytes of one tensor at a time.

The objects are loaded by `torch.load(weights_only=True)` onto the meta device, so that nothing is allocated and nothing
is mapped into memory; a tensor's bytes are then read from its record, by the shape and stride that the pickle gave it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import torch

from peelaudit.checkpoints.files import OpenFile, quoted
from peelaudit.checkpoints.store import FLOATS, MAX_TENSORS, READABLE
from peelaudit.checkpoints.torch_pickle import MAX_PICKLE, check_pickle
from peelaudit.checkpoints.torch_zip import Record, read_directory, verify
from peelaudit.errors import MalformedCheckpoint, UnreadableCheckpoint, UnsupportedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["TorchFile", "TorchTensors"]

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class TorchFile:
    """An open file of torch.save. `content` is what it holds; the tensors in it are on the meta device."""

    def __init__(self, path: Path) -> None:
        """Check the archive and load its objects, without the tensors' bytes.

        Raises:
            UnreadableCheckpoint: there is no such file, or it isn't torch.save's.
            MalformedCheckpoint: the archive is damaged or hostile.
            UnsupportedCheckpoint: it holds more than tensors and plain containers, or is of an old format.
        """
        self.path = path
        self.file = OpenFile(path)
        try:
            _check_magic(self.file)
            self.records = read_directory(self.file)
            self.content = self._load()
        except BaseException:
            self.file.close()
            raise

    def _load(self) -> object:
        subject = quoted(self.path)
        program = self.records["data.pkl"]
        if program.size > MAX_PICKLE:
            raise MalformedCheckpoint(f"{subject}: {program.size} bytes of pickle are too many for a model")
        verify(self.file, program)
        check_pickle(bytes(self.file.read(program.offset, program.size)), subject)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return cast("object", torch.load(self.path, map_location="meta", weights_only=True))
        except MemoryError:
            raise
        except Exception as error:
            raise MalformedCheckpoint(f"{subject}: its pickle is damaged ({type(error).__name__})") from None

    def close(self) -> None:
        """Release the file."""
        self.file.close()


class TorchTensors:
    """The tensors of one state dict within a torch file, as a store."""

    format = "torch"
    floats: Collection[str] = FLOATS

    def __init__(self, file: TorchFile, state: Mapping[str, torch.Tensor]) -> None:
        """Compare every tensor with the record that holds its bytes.

        Raises:
            MalformedCheckpoint: a tensor reaches beyond its record, or stretches it.
            UnsupportedCheckpoint: a tensor isn't dense.
        """
        if len(state) > MAX_TENSORS:
            raise MalformedCheckpoint(f"{quoted(file.path)}: {len(state)} tensors are more than any model has")
        self._open = file
        self._state = state
        self.paths = (file.path,)
        by_offset = {record.offset: record for record in file.records.values()}
        self._records = {name: _record_of(file.path, name, tensor, by_offset) for name, tensor in state.items()}
        self._verified: set[Record] = set()
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, tuple(tensor.shape), _dtype(tensor), tensor.numel() * tensor.element_size())
            for name, tensor in state.items()
        }

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name, on the CPU. Its record's checksum is compared the first time."""
        meta, record = self._state[name], self._records[name]
        dtype = _dtype(meta)
        if dtype not in READABLE:
            raise UnsupportedCheckpoint(
                f"{quoted(self._open.path)}: the tensor {quoted(name)} is stored as {dtype}, which isn't read"
            )
        if meta.numel() == 0:
            return torch.empty(meta.shape, dtype=meta.dtype)
        if record not in self._verified:
            verify(self._open.file, record)
            self._verified.add(record)
        width = meta.element_size()
        data = self._open.file.read(record.offset + int(meta.storage_offset()) * width, _span(meta) * width)
        flat = torch.frombuffer(data, dtype=meta.dtype)
        return flat.as_strided(meta.shape, meta.stride()).contiguous()

    def close(self) -> None:
        """Release the file."""
        self._open.close()


def _check_magic(file: OpenFile) -> None:
    """Raise unless the file begins as a zip archive; say what it seems to be instead."""
    subject = quoted(file.path)
    head = bytes(file.read(0, min(file.size, 512)))
    if not head:
        raise MalformedCheckpoint(f"{subject}: is empty")
    if head.startswith(b"PK\3\4"):
        return
    if head.startswith(b"version https://git-lfs"):
        raise UnreadableCheckpoint(f"{subject}: is a Git LFS pointer, not the weights; run `git lfs pull`")
    if head.lstrip()[:1] == b"<":
        raise UnreadableCheckpoint(f"{subject}: is a web page, not the weights; download the file itself")
    if head.startswith(_LEGACY) or head[257:262] == b"ustar":
        raise UnsupportedCheckpoint(f"{subject}: is in torch's old format; load it and torch.save it again")
    raise UnreadableCheckpoint(f"{subject}: isn't a file that torch.save wrote")


def _record_of(path: Path, name: str, tensor: torch.Tensor, by_offset: Mapping[int, Record]) -> Record:
    """The record that holds the tensor's bytes, after comparing their sizes."""
    where = f"{quoted(path)}: the tensor {quoted(name)}"
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise UnsupportedCheckpoint(f"{where} isn't dense")
    storage = tensor.untyped_storage()
    record = by_offset.get(getattr(storage, "_checkpoint_offset", -1))
    if record is None:
        raise MalformedCheckpoint(f"{where} has no bytes in the file")
    if record.size != storage.nbytes():
        raise MalformedCheckpoint(f"{where} belongs to a record of {record.size} bytes, not {storage.nbytes()}")
    width = tensor.element_size()
    if tensor.numel() * width > record.size or (tensor.storage_offset() + _span(tensor)) * width > record.size:
        raise MalformedCheckpoint(f"{where} is larger than the record that holds its bytes")
    return record


def _span(tensor: torch.Tensor) -> int:
    """How many elements lie between the tensor's first and last, both included."""
    if math.prod(tensor.shape) == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
