"""Which files hold the calibration data: those given, else `calibration.*` beside the checkpoint, else none."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peelaudit.errors import CalibrationError

__all__ = ["KINDS", "SourceFile", "budgets", "find_sources", "printable", "sha256_of_files"]

KINDS = {".txt": "txt", ".jsonl": "jsonl", ".npy": "npy", ".bin": "bin", ".parquet": "parquet"}
"""The kind of a file by its suffix, in the order of preference of several `calibration.*`."""

PACKINGS = {".gz": "gz", ".zst": "zst"}
"""How a file is packed, by the suffix behind that of its kind."""

_PACKED = {".txt": "txt", ".jsonl": "jsonl", ".json": "jsonl"}
"""What may be packed. A corpus' .json.gz holds a JSON object a line."""

_SUFFIXES = (*KINDS, *(f"{inner}{outer}" for inner in _PACKED for outer in PACKINGS))

_MAX_EXPANSION = 64
"""How many times its size the text of a packed or parquet file is taken to be at most."""

_LEAST_EXPANDED = 2**20
"""Its bytes are taken to be no fewer than this at most."""

_KNOWN = f"{', '.join(KINDS)}, or {', '.join(_PACKED)} with {' or '.join(PACKINGS)} behind it, file"

MAX_FILES = 100_000
"""Files of one data directory; more are refused."""

POOL_BYTES = 2**24
"""How much of the data is read at least, if there is so much; what is used is drawn from that. In bytes."""

POOL_BYTES_PER_TOKEN = 64
"""The same in bytes per token asked for: a token is about four bytes of English."""

_NOT_FILES = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of calibration data. `name` is how it was found below what was given, `bytes` its size.

    `modified` is the time of its last change, in nanoseconds. `packing` is a value of `PACKINGS`, or empty.
    """

    path: Path
    name: str
    kind: str
    bytes: int
    modified: int
    packing: str = ""

    @property
    def expanded(self) -> int:
        """How many bytes of text it is taken to hold at most."""
        if self.packing or self.kind == "parquet":
            return max(_MAX_EXPANSION * self.bytes, _LEAST_EXPANDED)
        return self.bytes

    def __str__(self) -> str:
        return printable(str(self.path))


def printable(text: str) -> str:
    """`text` with what isn't printable escaped: a file's name may hold newlines and terminal codes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def find_sources(data: Sequence[str], checkpoint: Path) -> tuple[SourceFile, ...]:
    """The files to read, in the order given and by name within a directory; empty where the built-in text is to serve.

    Raises:
        CalibrationError: a path is missing, isn't a regular file, is of no supported kind, or a directory holds none.
    """
    if data:
        return tuple(source for path in data for source in _expand(Path(path)))
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for suffix in _SUFFIXES:
        if (path := folder / f"calibration{suffix}").exists():
            return (_source(path, path.name),)
    return ()


def _expand(path: Path) -> Iterator[SourceFile]:
    if not path.is_dir():
        yield _source(path, path.name)
        return
    found = sorted(_walk(path))
    if not found:
        raise CalibrationError(f"{printable(str(path))}: the directory holds no {_KNOWN}")
    for name in found:
        yield _source(path / name, name)


def _walk(directory: Path) -> list[str]:
    found = []
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(folder).relative_to(directory)
        found += [(here / name).as_posix() for name in files if not name.startswith(".") and _kind(name) is not None]
        if len(found) > MAX_FILES:
            raise CalibrationError(f"{printable(str(directory))}: the directory holds more than {MAX_FILES} data files")
    return found


def _kind(name: str) -> tuple[str, str] | None:
    """What a file holds and how it is packed, by its name."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in PACKINGS:
        kind = _PACKED.get(suffixes[-2]) if len(suffixes) > 1 else None
        return None if kind is None else (kind, PACKINGS[suffixes[-1]])
    kind = KINDS.get(suffixes[-1]) if suffixes else None
    return None if kind is None else (kind, "")


def _source(path: Path, name: str) -> SourceFile:
    """Look before opening: a FIFO would block, a device never ends."""
    shown = printable(str(path))
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CalibrationError(f"{shown}: the calibration data can't be read: {reason}") from error
    for test, what in _NOT_FILES:
        if test(status.st_mode):
            raise CalibrationError(f"{shown}: expected a file of calibration data, found {what}")
    kind = _kind(path.name)
    if kind is None:
        raise CalibrationError(f"{shown}: calibration data are {_KNOWN}s or directories of these")
    if not os.access(path, os.R_OK):
        raise CalibrationError(f"{shown}: the calibration data can't be read: {os.strerror(errno.EACCES)}")
    if status.st_size == 0:
        raise CalibrationError(f"{shown}: the file is empty")
    return SourceFile(path, name, kind[0], status.st_size, status.st_mtime_ns, kind[1])


def budgets(sources: Sequence[SourceFile], tokens: int) -> list[int]:
    """How many bytes of text to read of each source: all of it, or a level that fills the pool over all sources."""
    left = max(POOL_BYTES, POOL_BYTES_PER_TOKEN * tokens)
    level: dict[int, int] = {}
    by_size = sorted(range(len(sources)), key=lambda index: sources[index].expanded)
    for done, index in enumerate(by_size):
        level[index] = min(sources[index].expanded, max(left // (len(sources) - done), 4096))
        left -= level[index]
    return [level[index] for index in range(len(sources))]


def sha256_of_files(sources: Sequence[SourceFile]) -> str:
    """The hash of the one file's bytes; of several, the hash of the lines `<hash> <name>`.

    Raises:
        CalibrationError: a file can't be read, or is no longer what it was when it was found.
    """
    digests = []
    for source in sources:
        try:
            with source.path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
                status = os.fstat(file.fileno())
        except OSError as error:
            raise CalibrationError(f"{source}: the calibration data can't be read: {error.strerror}") from error
        if (status.st_size, status.st_mtime_ns) != (source.bytes, source.modified):
            raise CalibrationError(f"{source}: the file was changed while it was read")
    if len(digests) == 1:
        return digests[0]
    lines = (f"{digest} {source.name}\n" for digest, source in zip(digests, sources, strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
