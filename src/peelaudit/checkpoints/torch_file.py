"""A file of `torch.save`: its objects with tensors that have no bytes yet, and the bytes of one tensor at a time.

Nothing of torch's own loading is used: the pickle is read by `unpickling`, and a tensor's bytes from the record that
the same directory gives, by the shape and stride that the same pickle gave. So what was checked is what is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from peelaudit.checkpoints.files import OpenFile, Readable, quoted
from peelaudit.checkpoints.inert import StoredTensor
from peelaudit.checkpoints.store import FLOATS, MAX_TENSORS, READABLE, as_bytes, read_tensor
from peelaudit.checkpoints.torch_zip import Record, read_directory, seal, verify
from peelaudit.checkpoints.unpickling import MAX_PICKLE, unpickle
from peelaudit.errors import MalformedCheckpoint, UnreadableCheckpoint, UnsupportedCheckpoint
from peelaudit.records import TensorInfo

__all__ = ["TorchArchive", "TorchFile", "TorchTensors"]

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class TorchArchive:
    """What torch.save wrote into a file, or into a range of one. `content` is what it holds, without tensors' bytes."""

    def __init__(self, file: Readable) -> None:
        """Check the archive and load its objects.

        Raises:
            UnreadableCheckpoint: it isn't torch.save's.
            MalformedCheckpoint: the archive is damaged or hostile.
            UnsupportedCheckpoint: it is a program, or of an old format.
        """
        self._file = file
        _check_magic(file)
        self._records = read_directory(file)
        self._verified: set[Record] = set()
        program = self._records["data.pkl"]
        if program.size > MAX_PICKLE:
            raise MalformedCheckpoint(f"{quoted(file.path)}: {program.size} bytes of pickle are too many for a model")
        verify(file, program)
        self.content = unpickle(bytes(file.read(program.offset, program.size)), quoted(file.path))

    def record_of(self, name: str, tensor: StoredTensor) -> Record:
        """The record that holds the tensor's bytes.

        Raises:
            MalformedCheckpoint: there is none, or it is too short or too long, or the tensor reaches beyond it, or
                stretches it.
        """
        subject, key, promised = quoted(self._file.path), f"data/{tensor.storage.key}", tensor.storage.bytes
        whose = f"the record {quoted(key)}, the bytes of the tensor {quoted(name)},"
        record = self._records.get(key)
        if record is None:
            raise MalformedCheckpoint(f"{subject}: {whose} is missing: its pickle promises {promised} bytes")
        if record.size != promised:
            wrong = "short" if record.size < promised else "long"
            raise MalformedCheckpoint(
                f"{subject}: {whose} is too {wrong}: it has {record.size} bytes, and its pickle promises {promised}"
            )
        reach = max(tensor.bytes, (tensor.offset + tensor.span) * tensor.width)
        if reach > record.size:
            raise MalformedCheckpoint(
                f"{subject}: the tensor {quoted(name)} needs {reach} bytes of the record {quoted(key)}, which has "
                f"{record.size}"
            )
        return record

    def read(self, name: str, tensor: StoredTensor) -> torch.Tensor:
        """The tensor on the CPU. Its record's checksum is compared the first time.

        Raises:
            MalformedCheckpoint: its bytes are damaged.
            UnsupportedCheckpoint: it is of a dtype that isn't read.
        """
        record = self.record_of(name, tensor)
        if record not in self._verified:
            verify(self._file, record)
            self._verified.add(record)
        begin = record.offset + tensor.offset * tensor.width
        flat = read_tensor(self._file, begin, tensor.dtype, (tensor.span,), name)
        return flat.as_strided(tensor.shape, tensor.stride).contiguous()


class TorchFile(TorchArchive):
    """An open file of torch.save."""

    def __init__(self, path: Path) -> None:
        """Open it and load its objects; raises UnreadableCheckpoint where there is none, else as `TorchArchive`."""
        self.path = path
        self._opened = OpenFile(path)
        try:
            super().__init__(self._opened)
        except BaseException:
            self._opened.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._opened.close()


class TorchTensors:
    """The tensors of one state dict within a torch file, as a store."""

    format = "torch"
    floats: Collection[str] = FLOATS

    def __init__(self, file: TorchFile, state: Mapping[str, StoredTensor]) -> None:
        """Compare every tensor with the record that holds its bytes; raises as `TorchArchive.record_of`."""
        if len(state) > MAX_TENSORS:
            raise MalformedCheckpoint(f"{quoted(file.path)}: {len(state)} tensors are more than any model has")
        self._open = file
        self._state = state
        self.paths = (file.path,)
        for name, tensor in state.items():
            file.record_of(name, tensor)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, tensor.shape, tensor.dtype, tensor.bytes) for name, tensor in state.items()
        }

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that stored name, on the CPU; raises as `TorchArchive.read`."""
        return self._open.read(name, self._state[name])

    def overwrite(self, handle: BinaryIO, name: str, tensor: torch.Tensor) -> None:
        """Put a tensor of the stored shape and dtype into the place of that one, in a copy of the file; what shares its
        storage has the new values too.
        """
        stored = self._state[name]
        record = self._open.record_of(name, stored)
        begin = record.offset + stored.offset * stored.width
        flat = torch.empty(stored.span, dtype=READABLE[stored.dtype])
        handle.seek(begin)
        handle.readinto(flat.view(torch.uint8).numpy().data)  # type: ignore[attr-defined]
        flat.as_strided(stored.shape, stored.stride).copy_(tensor)
        handle.seek(begin)
        handle.write(as_bytes(flat))
        seal(handle, record)

    def close(self) -> None:
        """Release the file."""
        self._open.close()


def _check_magic(file: Readable) -> None:
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
