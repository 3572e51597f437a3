"""What a pickle's objects become here: plain containers and numbers, tensors without bytes, and placeholders.

A placeholder keeps what the pickle said of an object (whose it is, its arguments, its state) and does nothing: no class
is looked up by its name, nothing is imported, called or hashed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from peelaudit.checkpoints.files import quoted
from peelaudit.errors import MalformedCheckpoint

__all__ = [
    "DTYPES",
    "Dense",
    "Inert",
    "Key",
    "Named",
    "Storage",
    "StoredTensor",
    "kind_of",
    "make",
    "sizes_of",
    "storage_of",
]

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
"""Every dtype of torch by its name."""
_DICTS = frozenset({"collections.OrderedDict", "collections.defaultdict", "builtins.dict"})
_PLAIN_TENSORS = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"})
_MAX_RANK = 8
_LARGEST = 1 << 62


@dataclass(frozen=True, eq=False, slots=True)
class Named:
    """A class or function that the pickle names; never looked up."""

    path: str


@dataclass(eq=False, slots=True, repr=False)
class Inert:
    """The placeholder of an object: what made it, out of what, and what was put into it since (keys and values of a
    mapping by turns).
    """

    path: str
    args: tuple[object, ...] = ()
    state: object = None
    items: list[object] | None = None

    def add(self, values: list[object]) -> None:
        """Put items into it."""
        if self.items is None:
            self.items = []
        self.items.extend(values)


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Key:
    """A dictionary's key that isn't text: told apart by identity, so that its value is never hashed."""

    value: object


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """The bytes that tensors share, by the name of their record; `bytes` is how many the pickle says there are."""

    key: str
    dtype: str
    bytes: int


@dataclass(frozen=True, eq=False, slots=True)
class Dense:
    """A dense tensor without its bytes."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype].itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.width


@dataclass(frozen=True, eq=False, slots=True)
class StoredTensor(Dense):
    """A tensor as a pickle describes it. `offset` and `stride` count elements of its storage."""

    storage: Storage
    stride: tuple[int, ...]
    offset: int

    @property
    def span(self) -> int:
        """How many elements lie between the first and the last, both included."""
        if math.prod(self.shape) == 0:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))


def kind_of(value: object) -> str:
    """What an object is, for a message."""
    if isinstance(value, Key):
        return kind_of(value.value)
    if isinstance(value, Inert | Named):
        return value.path
    return "tensor" if isinstance(value, Dense) else type(value).__name__


def storage_of(reference: object, subject: str) -> Storage:
    """The storage that a persistent reference of torch.save means: ("storage", type, record, device, elements).

    Raises:
        MalformedCheckpoint: it is another reference.
    """
    if isinstance(reference, tuple) and len(reference) == 5 and reference[0] == "storage":
        _, kind, key, _, count = reference
        dtype = _STORAGES.get(kind.path.rpartition(".")[2]) if isinstance(kind, Named) else None
        if dtype and isinstance(key, str) and type(count) is int and 0 <= count < _LARGEST:
            return Storage(key, dtype, count * DTYPES[dtype].itemsize)
    raise MalformedCheckpoint(f"{subject}: its pickle refers to something that isn't a storage of torch.save")


def make(path: str, args: tuple[object, ...], subject: str) -> object:
    """What calling `path` with `args` gives: a dict, a size, a dense tensor, else a placeholder.

    Raises:
        MalformedCheckpoint: a tensor's numbers are impossible.
    """
    if path in _DICTS and (not args or path == "collections.defaultdict"):
        return {}
    if path == "torch.Size" and len(args) == 1 and isinstance(args[0], tuple):
        return args[0]
    maker = _MAKERS.get(path)
    found = maker(args, subject) if maker is not None else None
    return Inert(path, args) if found is None else found


def _tensor(args: tuple[object, ...], subject: str) -> object:
    """A tensor of (storage, offset, shape, stride, …), of its storage's dtype."""
    return _dense(args[:4], args[0].dtype, subject) if args and isinstance(args[0], Storage) else None


def _tensor_of_dtype(args: tuple[object, ...], subject: str) -> object:
    """A tensor of (storage, offset, shape, stride, requires_grad, hooks, dtype, …)."""
    dtype = args[6] if len(args) > 6 else None
    return _dense(args[:4], dtype.path.rpartition(".")[2], subject) if isinstance(dtype, Named) else None


def _parameter(args: tuple[object, ...], _subject: str) -> object:
    """A parameter of (tensor, …)."""
    return args[0] if args and isinstance(args[0], StoredTensor) else None


def _of_type(args: tuple[object, ...], subject: str) -> object:
    """An object of (function, type, its arguments, state): a tensor with attributes, or a subclass of it."""
    if len(args) != 4 or not isinstance(args[0], Named) or not isinstance(args[1], Named):
        return None
    if args[1].path in _PLAIN_TENSORS and isinstance(args[2], tuple) and args[0].path in _MAKERS:
        maker = _MAKERS[args[0].path]
        return maker(args[2], subject) if maker is not _of_type else None
    return Inert(args[1].path, args)


_MAKERS: Mapping[str, Callable[[tuple[object, ...], str], object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}


def _dense(args: tuple[object, ...], dtype: str, subject: str) -> StoredTensor:
    """The tensor of (storage, offset, shape, stride), with its numbers checked."""
    if len(args) == 4 and isinstance(args[0], Storage) and dtype in DTYPES:
        offset, shape, stride = sizes_of((args[1],)), sizes_of(args[2]), sizes_of(args[3])
        if offset is not None and shape is not None and stride is not None and len(shape) == len(stride):
            return StoredTensor(dtype, shape, args[0], stride, offset[0])
    raise MalformedCheckpoint(f"{subject}: its pickle describes an impossible tensor of dtype {quoted(dtype, 40)}")


def sizes_of(value: object) -> tuple[int, ...] | None:
    """`value` as a tuple of at most `_MAX_RANK` counts, or None if it isn't one."""
    if not isinstance(value, tuple) or len(value) > _MAX_RANK:
        return None
    found = tuple(size for size in value if type(size) is int and 0 <= size < _LARGEST)
    return found if len(found) == len(value) else None
