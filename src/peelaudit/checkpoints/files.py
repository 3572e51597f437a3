"""Plain access to files that may be hostile: look before opening, read exact ranges, notice edits, escape names.

Nothing is memory-mapped: a file that is truncated while it is mapped kills the process (SIGBUS), a short read doesn't.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol, Self

from peelaudit import json_text
from peelaudit.errors import CheckpointError, MalformedCheckpoint, UnreadableCheckpoint
from peelaudit.progress import SILENT, Progress

__all__ = [
    "OpenFile",
    "Readable",
    "Snapshot",
    "Window",
    "fingerprint",
    "quoted",
    "read_json",
    "regular_file",
    "take_snapshot",
    "within",
]

_HASH_CHUNK = 1 << 20
_MAX_JSON = 32 << 20


def quoted(text: object, limit: int = 120) -> str:
    """`text` in quotes for a message: control characters, escape codes and lone surrogates escaped, its middle left out
    where it is long.
    """
    try:
        plain = str(text)
    except (RecursionError, ValueError):  # nested as deep as it was parsed; a whole number of thousands of digits
        plain = f"a {type(text).__name__} too long to print"
    return repr(plain if len(plain) <= limit else f"{plain[: limit // 3]}…{plain[-(limit - limit // 3 - 1) :]}")


def regular_file(path: Path) -> os.stat_result:
    """The stat of `path`, which is a regular file; never opens it, so a FIFO can't hang.

    Raises:
        UnreadableCheckpoint: there is no such file, or it is something else.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UnreadableCheckpoint(f"{quoted(path)}: no such file") from None
    except (OSError, ValueError) as error:
        raise UnreadableCheckpoint(f"{quoted(path)}: can't be opened ({_reason(error)})") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a directory" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise UnreadableCheckpoint(f"{quoted(path)}: expected a file, found {what}")
    return found


class Readable(Protocol):
    """A file, or a range of one, that is read exactly. `path` names it in messages, `size` is in bytes."""

    path: Path
    size: int

    def read(self, offset: int, count: int) -> bytearray:
        """`count` bytes from `offset`."""
        ...

    def fill(self, offset: int, view: memoryview) -> None:
        """Bytes from `offset` on into all of `view`, one of bytes; raises as `read`."""
        ...


class OpenFile:
    """A regular file, open for exact reads at any offset until `close`."""

    def __init__(self, path: Path) -> None:
        regular_file(path)
        try:
            self._handle: BinaryIO = path.open("rb", buffering=0)
        except OSError as error:
            raise UnreadableCheckpoint(f"{quoted(path)}: can't be opened ({_reason(error)})") from None
        opened = os.fstat(self._handle.fileno())
        self.path = path
        self.size = opened.st_size
        self._modified = opened.st_mtime_ns

    def read(self, offset: int, count: int) -> bytearray:
        """`count` bytes from `offset`.

        Raises:
            MalformedCheckpoint: the range isn't within the file, or the file has changed since it was opened.
        """
        self._check_range(offset, count)
        data = bytearray(count)
        self.fill(offset, memoryview(data))
        return data

    def fill(self, offset: int, view: memoryview) -> None:
        """Bytes from `offset` on into all of `view`, one of bytes; raises as `read`."""
        self._check_range(offset, len(view))
        now = os.fstat(self._handle.fileno())
        if now.st_size != self.size or now.st_mtime_ns != self._modified:
            raise MalformedCheckpoint(f"{quoted(self.path)}: was changed while it was being read")
        done = 0
        self._handle.seek(offset)
        while done < len(view):
            got = self._readinto(view[done:])
            if not got:
                raise MalformedCheckpoint(f"{quoted(self.path)}: was truncated while it was being read")
            done += got

    def _check_range(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise MalformedCheckpoint(f"{quoted(self.path)}: ends at byte {self.size}, before what its header promises")

    def _readinto(self, view: memoryview) -> int:
        try:
            return self._handle.readinto(view) or 0  # type: ignore[attr-defined]
        except OSError as error:
            raise UnreadableCheckpoint(f"{quoted(self.path)}: can't be read ({_reason(error)})") from None

    def close(self) -> None:
        """Release the file."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Window:
    """`size` bytes of a file from `begin` on, as if they were a file."""

    def __init__(self, file: OpenFile, begin: int, size: int) -> None:
        """Raises MalformedCheckpoint where the range isn't within the file."""
        if begin < 0 or size < 0 or begin + size > file.size:
            raise MalformedCheckpoint(f"{quoted(file.path)}: ends at byte {file.size}, before what its index promises")
        self.path = file.path
        self.size = size
        self._file = file
        self._begin = begin

    def read(self, offset: int, count: int) -> bytearray:
        """`count` bytes from `offset`; raises as `OpenFile.read`."""
        self._check_range(offset, count)
        return self._file.read(self._begin + offset, count)

    def fill(self, offset: int, view: memoryview) -> None:
        """Bytes from `offset` on into all of `view`, one of bytes; raises as `OpenFile.read`."""
        self._check_range(offset, len(view))
        self._file.fill(self._begin + offset, view)

    def _check_range(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise MalformedCheckpoint(f"{quoted(self.path)}: a part of it ends before what its header promises")


def within(directory: Path, name: str) -> Path:
    """The file of that name, which must not lead out of the directory (nor out of its own folder of the hub's cache).

    Raises:
        MalformedCheckpoint: the name or a symbolic link leads elsewhere.
    """
    if PurePosixPath(name).name != name or name == ".." or "\\" in name or "\0" in name:
        raise MalformedCheckpoint(f"{quoted(directory)}: the index names {quoted(name)}, outside of the directory")
    root = directory.resolve()
    if root.parent.name == "snapshots":
        root = root.parent.parent  # the hub's cache: snapshots/<revision>/* link to blobs/*
    try:
        inside = (directory / name).resolve().is_relative_to(root)
    except (OSError, ValueError) as error:  # a loop of links, a name that the system can't have
        raise MalformedCheckpoint(f"{quoted(directory)}: {quoted(name)} names no file ({_reason(error)})") from None
    if not inside:
        raise MalformedCheckpoint(f"{quoted(directory / name)}: is a symbolic link that leaves the directory")
    return directory / name


def read_json(path: Path, kind: type[CheckpointError] = MalformedCheckpoint) -> dict[str, object]:
    """The JSON object in `path`. Duplicate keys, absurd depth and absurd integers are refused.

    Raises:
        UnreadableCheckpoint: there is no such file.
        MalformedCheckpoint: it isn't a JSON object (or the `kind` of error that is given).
    """
    with OpenFile(path) as file:
        if file.size > _MAX_JSON:
            raise kind(f"{quoted(path)}: {file.size} bytes are too many for a description of a model")
        raw = bytes(file.read(0, file.size))
    found = parse_json(raw, quoted(path), kind)
    if not isinstance(found, dict):
        raise kind(f"{quoted(path)}: expected a JSON object")
    return found


def parse_json(raw: bytes, subject: str, kind: type[CheckpointError] = MalformedCheckpoint) -> object:
    """`raw` as JSON; `subject` begins the message of the error."""
    try:
        return json_text.parse(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise kind(f"{subject}: isn't UTF-8 text") from None
    except json.JSONDecodeError:
        raise kind(f"{subject}: isn't valid JSON") from None
    except ValueError as error:
        raise kind(f"{subject}: isn't valid JSON: {error}") from None


def fingerprint(paths: Iterable[Path], progress: Progress) -> str:
    """The SHA-256 of the files' bytes, one after the other, as hexadecimal digits."""
    paths = tuple(paths)
    progress.stage("hash the checkpoint", sum(1 + regular_file(path).st_size // _HASH_CHUNK for path in paths))
    digest = hashlib.sha256()
    for path in paths:
        with OpenFile(path) as file:
            for offset in range(0, max(file.size, 1), _HASH_CHUNK):
                digest.update(file.read(offset, min(_HASH_CHUNK, file.size - offset)))
                progress.advance()
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What files were when they were hashed: `sha256` is their `fingerprint`."""

    paths: tuple[Path, ...]
    identities: tuple[tuple[int, ...], ...]
    sha256: str

    def check(self, subject: str) -> None:
        """Compare with the files as they are now; `subject` begins the message.

        They are hashed again only where one has another inode, size, or time of change, which no edit and no
        replacement leaves as it was.

        Raises:
            MalformedCheckpoint: their bytes aren't the same, or one is gone.
        """
        try:
            same = _identities(self.paths) == self.identities or fingerprint(self.paths, SILENT) == self.sha256
        except UnreadableCheckpoint:
            same = False
        if not same:
            raise MalformedCheckpoint(f"{subject}: was replaced, edited or removed while it was being audited")


def take_snapshot(paths: Iterable[Path], progress: Progress) -> Snapshot:
    """Hash the files.

    Raises:
        CheckpointError: one can't be read, or changes meanwhile.
    """
    paths = tuple(paths)
    # Looked at before they are read: a change meanwhile makes them differ later.
    identities = _identities(paths)
    return Snapshot(paths, identities, fingerprint(paths, progress))


def _identities(paths: Iterable[Path]) -> tuple[tuple[int, ...], ...]:
    return tuple(
        (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        for found in map(regular_file, paths)
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
