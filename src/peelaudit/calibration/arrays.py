"""Token ids out of NumPy's .npy, nanoGPT's and llm.c's .bin files. They need no tokenizer and are taken as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peelaudit.calibration.sources import SourceFile
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable

__all__ = ["TokenArrays", "Tokens", "read_bin", "read_npy"]

Tokens = npt.NDArray[np.int64]

GPT2_END_OF_TEXT = 50_256
GPT2_VOCABULARIES = (50_257, 50_304)
"""GPT-2's vocabulary, and nanoGPT's, padded to a multiple of 64."""


_LEAST_PADDED, _PADDED_SHARE = 2, 0.05
_MOST_ROWS, _MOST_AT_ONCE = 1 << 18, 1 << 24
"""Documents that are made of a file's rows, and ids that are read where some alone can't be, at most."""
_NARROW = 1 << 16
"""The largest vocabulary whose ids fit uint16."""
_LEAST_HALVES = 32
_LLMC: dict[int, tuple[int, np.dtype[np.integer]]] = {
    20240520: (1, np.dtype("<u2")),
    20240801: (7, np.dtype("<u4")),
}
"""Version and dtype of llm.c's token files (GPT-2's, Llama 3's) by the magic number of their header: 256 int32, magic,
version and number of tokens first."""
_LLMC_BYTES = 1024


@dataclass(frozen=True, slots=True)
class TokenArrays:
    """The token ids of one file: `divided` and `complete` as in `Texts`; `total` counts the ids in the whole file.

    `padding` is the id that filled documents up to one length, which was left out; None where nothing did.
    """

    documents: list[Tokens]
    divided: bool
    complete: bool
    total: int
    padding: int | None = None


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]
    offset: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class _Ids:
    """Where the ids of a .bin begin, in bytes, what they are stored as, and how many there are."""

    offset: int
    dtype: np.dtype[np.integer]
    count: int


def read_bin(source: SourceFile, vocabulary: int, budget: int) -> TokenArrays:
    """The little-endian ids in the first `budget` bytes of a .bin, nanoGPT's or llm.c's.

    They are uint16; uint32 where a header or a vocabulary of more than 65,536 says so, or where every second uint16 is
    zero. With GPT-2's vocabulary the documents are known: nanoGPT's scripts put id 50256 between them. It is what the
    model has seen before a document, so each is given with it in front. With another vocabulary this is one undivided
    stream.

    Raises:
        CalibrationError: a header of another version or size, bytes that are no whole number of ids, or an id that
            isn't below `vocabulary`.
    """
    stored = _stored(source, vocabulary, budget)
    count = min(stored.count, budget // stored.dtype.itemsize)
    raw = np.fromfile(source.path, dtype=stored.dtype, count=count, offset=stored.offset)
    ids, total = _checked(source, raw, vocabulary), stored.count
    if vocabulary not in GPT2_VOCABULARIES or GPT2_END_OF_TEXT not in ids:
        return TokenArrays([ids], divided=False, complete=ids.size == total, total=total)
    pieces = np.split(ids, np.flatnonzero(ids == GPT2_END_OF_TEXT))
    if pieces[0].size:
        pieces[0] = np.concatenate([[GPT2_END_OF_TEXT], pieces[0]])
    if ids.size < total:
        del pieces[-1]
    documents = [piece for piece in pieces if piece.size > 1]
    return TokenArrays(documents, divided=True, complete=ids.size == total, total=total)


def _stored(source: SourceFile, vocabulary: int, budget: int) -> _Ids:
    """What a .bin's ids are stored as: by its header, else by the vocabulary and the bytes."""
    header = np.fromfile(source.path, dtype="<i4", count=3)
    if header.size == 3 and int(header[0]) in _LLMC:
        version, dtype = _LLMC[int(header[0])]
        if int(header[1]) != version:
            raise CalibrationError(f"{source}: its llm.c header is of version {header[1]}; version {version} is read")
        held, promised = source.bytes - _LLMC_BYTES, int(header[2]) * dtype.itemsize
        if promised != held or promised <= 0:
            raise CalibrationError(
                f"{source}: its llm.c header promises {header[2]} tokens, {promised} bytes, and {held} follow it"
            )
        return _Ids(_LLMC_BYTES, dtype, int(header[2]))
    wide = vocabulary > _NARROW or _is_wide(np.fromfile(source.path, dtype="<u2", count=budget // 2))
    plain: np.dtype[np.integer] = np.dtype("<u4") if wide else np.dtype("<u2")
    if source.bytes % plain.itemsize:
        raise CalibrationError(f"{source}: {source.bytes} bytes are not a whole number of {plain.name} tokens")
    return _Ids(0, plain, source.bytes // plain.itemsize)


def _is_wide(halves: npt.NDArray[np.uint16]) -> bool:
    """Whether uint16s are the halves of small uint32s: no text has one token in every second place, id 0."""
    return halves.size >= _LEAST_HALVES and not halves[1::2].any() and bool(halves[::2].any())


def read_npy(source: SourceFile, vocabulary: int, budget: int) -> TokenArrays:
    """The ids in the first `budget` bytes of a .npy: of one dimension an undivided stream, of two a document a row,
    less what fills the rows up to one length.

    The header is compared with the file's size before anything is read, and nothing is ever unpickled. Every integer
    dtype of either byte order is read for the values it stands for.

    Raises:
        CalibrationError: a damaged header, another size than it promises, another dtype than an integer, another number
            of dimensions, or an id that isn't in 0 ... `vocabulary` - 1.
    """
    header = _read_header(source)
    _check_header(source, header)
    row = header.shape[1] if len(header.shape) == 2 else 1
    most = header.shape[0] if len(header.shape) == 1 else _MOST_ROWS
    rows = min(header.shape[0], most, max(1, budget // (row * header.dtype.itemsize)))
    if header.fortran and len(header.shape) == 2:
        rows = header.shape[0]  # columns are contiguous: there is no reading of some rows
        if header.count > _MOST_AT_ONCE or rows > _MOST_ROWS:
            raise CalibrationError(
                f"{source}: the array is stored by columns (Fortran order), of which no few rows can be read, and it "
                f"holds {header.count} ids: save numpy.ascontiguousarray of it"
            )
    if row > _MOST_AT_ONCE:
        raise CalibrationError(
            f"{source}: a row is a document, and {row} ids are more than one has; a stream has one dimension"
        )
    raw = np.fromfile(source.path, dtype=header.dtype, count=rows * row, offset=header.offset)
    if raw.size != rows * row:
        raise CalibrationError(f"{source}: the file was changed while it was read")
    raw = raw.reshape((rows, row), order="F" if header.fortran else "C")
    ids = _checked(source, raw, vocabulary)
    complete = rows == header.shape[0]
    if len(header.shape) == 1:
        return TokenArrays([ids[:, 0]], divided=False, complete=complete, total=header.count)
    lengths, padding = _unpadded(ids)
    documents = [document[:length] for document, length in zip(ids, lengths.tolist(), strict=True) if length]
    left_out = ids.size - int(lengths.sum())
    return TokenArrays(documents, divided=True, complete=complete, total=header.count - left_out, padding=padding)


def _unpadded(rows: Tokens) -> tuple[Tokens, int | None]:
    """How long each row is without the padding at its end, and which id that is.

    It is the id that more rows than by chance end in a run of: one in twenty, and two at least.
    """
    length = rows.shape[1]
    differs = rows[:, ::-1] != rows[:, -1:]
    runs = np.where(differs.any(axis=1), differs.argmax(axis=1), length)
    ends, counts = np.unique(rows[runs > 1, -1], return_counts=True)
    if not counts.size or counts.max() < max(_LEAST_PADDED, len(rows) * _PADDED_SHARE):
        return np.full(len(rows), length), None
    padding = int(ends[counts.argmax()])
    return np.where(rows[:, -1] == padding, length - runs, length), padding


def _read_header(source: SourceFile) -> _Header:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with source.path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            if version not in readers:
                raise ValueError(f"version {version} of the format is for structured arrays")
            shape, fortran, dtype = readers[version](file)
        except Exception as error:  # NumPy parses the header as Python: also SyntaxError, TokenError, TypeError
            first = printable(str(error).strip().split("\n")[0])[:160]
            raise CalibrationError(f"{source}: not a sound .npy file: {first}") from error
        return _Header(shape, fortran, dtype, file.tell())


def _check_header(source: SourceFile, header: _Header) -> None:
    shape, dtype = header.shape, header.dtype
    if dtype.hasobject:
        raise CalibrationError(f"{source}: an array of Python objects, which would have to be unpickled, is never read")
    if dtype.kind not in "iu":
        raise CalibrationError(
            f"{source}: token ids are integers, and this array's dtype is {printable(str(dtype))[:80]}"
        )
    if len(shape) not in (1, 2) or min(shape) < 0:
        expected = "expected one dimension (a stream) or two (a document a row)"
        raise CalibrationError(f"{source}: the array's shape is {str(shape)[:80]}: {expected}")
    promised, held = header.count * dtype.itemsize, source.bytes - header.offset
    if promised != held:
        raise CalibrationError(
            f"{source}: the header promises {promised} bytes of token ids, and the file holds {held}"
        )
    if header.count == 0:
        raise CalibrationError(f"{source}: the array is empty")


def _checked(source: SourceFile, raw: npt.NDArray[np.integer], vocabulary: int) -> Tokens:
    """Compared in its own dtype, since a conversion to int64 would wrap a uint64."""
    wrong = np.asarray((raw < 0) | (raw >= vocabulary))
    if wrong.any():
        position = np.unravel_index(int(wrong.argmax()), raw.shape)
        where = ", ".join(str(int(index)) for index in position[: 1 if raw.shape[-1:] == (1,) else None])
        raise CalibrationError(
            f"{source}: token id {raw[position]} at position {where} is not in the model's vocabulary of {vocabulary}"
        )
    return raw.astype(np.int64)
