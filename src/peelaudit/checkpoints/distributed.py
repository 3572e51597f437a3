"""A directory of torch.distributed.checkpoint (DCP): its index, and tensors put together from the ranks' chunks.

`.metadata` is a pickle that lists every tensor, the chunks that it was cut into, and where each chunk lies: a range of
a `.distcp` file, which is by itself what torch.save writes. FSDP, Lightning and Accelerate save so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from peelaudit.checkpoints.files import OpenFile, Window, quoted, within
from peelaudit.checkpoints.inert import DTYPES, Dense, Inert, Key, Named, StoredTensor, sizes_of
from peelaudit.checkpoints.state_dict import recognise
from peelaudit.checkpoints.store import FLOATS, MAX_TENSORS, READABLE, check_readable
from peelaudit.checkpoints.torch_file import TorchArchive
from peelaudit.checkpoints.unpickling import MAX_PICKLE, unpickle
from peelaudit.errors import MalformedCheckpoint, UnsupportedCheckpoint
from peelaudit.filenames import DISTRIBUTED
from peelaudit.records import TensorInfo

__all__ = ["DISTRIBUTED_FORMAT", "DistributedTensors"]

DISTRIBUTED_FORMAT = "torch.distributed"
_MOST_CHUNKS = 4096
"""Of one tensor: what as many ranks make of it."""
_DEEPEST = 16


@dataclass(frozen=True, slots=True)
class _Range:
    """Bytes of one of the directory's files."""

    file: str
    begin: int
    size: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A block of a tensor: where it begins in each dimension, its shape, and where its bytes are."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    place: _Range


@dataclass(frozen=True, eq=False, slots=True)
class _ChunkedTensor(Dense):
    """A tensor that lies in chunks, which cover it exactly."""

    chunks: tuple[_Chunk, ...]


class DistributedTensors:
    """The tensors of the state dict in such a directory, as a store."""

    format = DISTRIBUTED_FORMAT
    floats: Collection[str] = FLOATS

    def __init__(self, directory: Path) -> None:
        """Read the index, and hold every chunk of the state dict to it and to the files' sizes.

        Raises:
            UnreadableCheckpoint: a file isn't there.
            MalformedCheckpoint: the index is damaged, or chunks are missing, overlap or lie outside their files.
            UnsupportedCheckpoint: there is no state dict, or chunks are packed.
        """
        self._directory = directory
        index = within(directory, DISTRIBUTED)
        with OpenFile(index) as file:
            if file.size > MAX_PICKLE:
                raise MalformedCheckpoint(f"{quoted(index)}: {file.size} bytes of pickle are too many for a model")
            content = unpickle(bytes(file.read(0, file.size)), quoted(index))
        state = recognise(_nested(content, quoted(index)), directory, _ChunkedTensor).tensors
        if len(state) > MAX_TENSORS:
            raise MalformedCheckpoint(f"{quoted(index)}: {len(state)} tensors are more than any model has")
        files = sorted({chunk.place.file for tensor in state.values() for chunk in tensor.chunks})
        self._state = state
        self._files = {name: within(directory, name) for name in files}
        self.paths = (index, *self._files.values())
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, tensor.shape, tensor.dtype, tensor.bytes) for name, tensor in state.items()
        }
        self._check_places()

    def _check_places(self) -> None:
        """Raise MalformedCheckpoint where chunks leave their file, share bytes, or are too short for their shape."""
        places: defaultdict[str, list[_Range]] = defaultdict(list)
        for tensor in self._state.values():
            for chunk in tensor.chunks:
                places[chunk.place.file].append(chunk.place)
        for name, path in self._files.items():
            with OpenFile(path) as file:
                size = file.size
            end = 0
            for place in sorted(places[name], key=lambda place: place.begin):
                if place.begin < end or place.begin + place.size > size:
                    raise MalformedCheckpoint(f"{quoted(path)}: a chunk at byte {place.begin} overlaps or is truncated")
                end = place.begin + place.size

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that name, on the CPU, put together from its chunks.

        Raises:
            MalformedCheckpoint: a chunk is damaged, or isn't what the index says.
            UnsupportedCheckpoint: it is of a dtype that isn't read.
        """
        tensor = self._state[name]
        check_readable(tensor.dtype, self._directory, name)
        whole = torch.empty(tensor.shape, dtype=READABLE[tensor.dtype])
        for chunk in tensor.chunks:
            block = tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.shape, strict=True))
            whole[block] = self._chunk(name, tensor, chunk)
        return whole

    def _chunk(self, name: str, tensor: _ChunkedTensor, chunk: _Chunk) -> torch.Tensor:
        path = self._files[chunk.place.file]
        with OpenFile(path) as file:
            archive = TorchArchive(Window(file, chunk.place.begin, chunk.place.size))
            found = archive.content
            if not isinstance(found, StoredTensor) or (found.dtype, found.shape) != (tensor.dtype, chunk.shape):
                raise MalformedCheckpoint(f"{quoted(path)}: a chunk of {quoted(name)} isn't what the index says")
            return archive.read(name, found)

    def close(self) -> None:
        """Nothing: files are opened to read a chunk and closed again."""


def _nested(content: object, subject: str) -> Mapping[str, object]:
    """What was saved, as nested as it was: each tensor with its chunks, and placeholders of the rest."""
    found = _fields(content, "Metadata", subject)
    listed, stored, paths = (found.get(key) for key in ("state_dict_metadata", "storage_data", "planner_data"))
    if not isinstance(listed, dict) or not isinstance(stored, dict):
        raise MalformedCheckpoint(f"{subject}: lists no tensors, or not where they are")
    places = dict(_place(key, place, subject) for key, place in stored.items())
    if len(places) != len(stored):
        raise MalformedCheckpoint(f"{subject}: says twice where a chunk is")
    whole: dict[str, object] = {}
    for name, entry in listed.items():
        if not isinstance(name, str):
            raise MalformedCheckpoint(f"{subject}: a tensor's name isn't text")
        is_tensor = isinstance(entry, Inert) and entry.path.endswith(".TensorStorageMetadata")
        value = _tensor(name, entry, places, subject) if is_tensor else Inert("an object in bytes")
        path = paths.get(name, (name,)) if isinstance(paths, dict) else (name,)
        _put(whole, path, value, subject)
    return whole


def _put(whole: dict[str, object], path: object, value: object, subject: str) -> None:
    """Set what stands at the end of `path`, making the dictionaries on the way."""
    if not isinstance(path, tuple) or not 0 < len(path) <= _DEEPEST or not all(type(p) in (str, int) for p in path):
        raise MalformedCheckpoint(f"{subject}: says of a tensor no place in what was saved")
    level = whole
    for part in path[:-1]:
        inner = level.setdefault(str(part), {})
        if not isinstance(inner, dict):
            raise MalformedCheckpoint(f"{subject}: has {quoted(part)} as a tensor and as what holds tensors")
        level = inner
    if str(path[-1]) in level:
        raise MalformedCheckpoint(f"{subject}: has {quoted(path[-1])} twice")
    level[str(path[-1])] = value


def _fields(value: object, kind: str, subject: str) -> Mapping[object, object]:
    """The fields of the placeholder of a dataclass of that name."""
    if isinstance(value, Inert) and value.path.rpartition(".")[2] == kind and isinstance(value.state, dict):
        return value.state
    raise MalformedCheckpoint(f"{subject}: isn't the index of a torch.distributed checkpoint: a {kind} is damaged")


def _place(key: object, value: object, subject: str) -> tuple[tuple[str, object], _Range]:
    """What lies where: a tensor's name and offset (None for other objects), and the range."""
    index = _fields(key.value if isinstance(key, Key) else None, "MetadataIndex", subject)
    place = _fields(value, "_StorageInfo", subject)
    name, offset = index.get("fqn"), index.get("offset")
    file, begin, size = place.get("relative_path"), place.get("offset"), place.get("length")
    numbers = sizes_of((begin, size))
    if not isinstance(name, str) or not isinstance(file, str) or numbers is None:
        raise MalformedCheckpoint(f"{subject}: a chunk's place in a file is damaged")
    if place.get("transform_descriptors"):
        raise UnsupportedCheckpoint(f"{subject}: its chunks are packed (transform_descriptors); save it without")
    return (name, sizes_of(offset)), _Range(file, *numbers)


def _tensor(name: str, entry: object, places: Mapping[tuple[str, object], _Range], subject: str) -> _ChunkedTensor:
    """A tensor and its chunks, which must cover it exactly."""
    where = f"{subject}: the tensor {quoted(name)}"
    found = _fields(entry, "TensorStorageMetadata", subject)
    properties, shape, chunks = found.get("properties"), sizes_of(found.get("size")), found.get("chunks")
    kind = properties.state if isinstance(properties, Inert) else None
    dtype = kind[0] if isinstance(kind, tuple) and kind else None
    short = dtype.path.removeprefix("torch.") if isinstance(dtype, Named) else ""
    if short not in DTYPES or shape is None or not isinstance(chunks, list) or len(chunks) > _MOST_CHUNKS:
        raise MalformedCheckpoint(f"{where} has no sound dtype, shape and chunks")
    blocks = tuple(_block(name, chunk, places, where) for chunk in chunks)
    whole = _ChunkedTensor(short, shape, blocks)
    if any(math.prod(block.shape) * whole.width > block.place.size for block in blocks):
        raise MalformedCheckpoint(f"{where} has a chunk that is larger than the bytes that hold it")
    _check_cover(shape, blocks, where)
    return whole


def _block(name: str, chunk: object, places: Mapping[tuple[str, object], _Range], where: str) -> _Chunk:
    found = _fields(chunk, "ChunkStorageMetadata", where)
    offsets, shape = sizes_of(found.get("offsets")), sizes_of(found.get("sizes"))
    place = places.get((name, offsets))
    if offsets is None or shape is None or place is None:
        raise MalformedCheckpoint(f"{where} has a chunk without a place in a file")
    return _Chunk(offsets, shape, place)


def _check_cover(shape: tuple[int, ...], chunks: Sequence[_Chunk], where: str) -> None:
    """Raise MalformedCheckpoint unless the chunks cover a tensor of that shape, each element once."""
    if any(len(chunk.offsets) != len(shape) or len(chunk.shape) != len(shape) for chunk in chunks):
        raise MalformedCheckpoint(f"{where} has a chunk of another rank")
    if len(chunks) == 1 and chunks[0].shape == shape and not any(chunks[0].offsets):
        return
    missing = math.prod(shape) - sum(math.prod(chunk.shape) for chunk in chunks)
    if missing:
        raise MalformedCheckpoint(f"{where} has chunks that {'miss some of' if missing > 0 else 'overlap within'} it")
    begins = np.array([chunk.offsets for chunk in chunks], dtype=np.uint64).reshape(len(chunks), len(shape))
    ends = begins + np.array([chunk.shape for chunk in chunks], dtype=np.uint64).reshape(begins.shape)
    if (ends > np.array(shape, dtype=np.uint64)).any():
        raise MalformedCheckpoint(f"{where} has a chunk outside of it")
    solid = (begins < ends).all(axis=1)
    begins, ends = begins[solid], ends[solid]
    for index in range(len(begins)):
        if (np.maximum(begins[index + 1 :], begins[index]) < np.minimum(ends[index + 1 :], ends[index])).all(1).any():
            raise MalformedCheckpoint(f"{where} has chunks that overlap")
