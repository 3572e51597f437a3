"""The files that hold the calibration data: how large they are, how much of each is read, and their hash."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peelaudit.errors import CalibrationError
from peelaudit.escape import printable

__all__ = ["SourceFile", "budgets", "check_unchanged", "identity_of", "sha256_of_files"]

_MAX_EXPANSION = 64
"""How many times its size the text of a packed or parquet file is taken to be at most."""

_LEAST_EXPANDED = 2**20
"""Its bytes are taken to be no fewer than this at most."""

POOL_BYTES = 2**24
"""How much of the data is read at least, if there is so much; what is used is drawn from that. In bytes."""

POOL_BYTES_PER_TOKEN = 64
"""The same in bytes per token asked for: a token is about four bytes of English."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of calibration data. `name` is how it was found below what was given, `bytes` its size.

    `identity` is what `identity_of` said of it then. `packing` is `gz` or `zst`, empty where it is plain.
    """

    path: Path
    name: str
    kind: str
    bytes: int
    identity: tuple[int, ...]
    packing: str = ""

    @property
    def expanded(self) -> int:
        """How many bytes of text it is taken to hold at most."""
        if self.packing or self.kind == "parquet":
            return max(_MAX_EXPANSION * self.bytes, _LEAST_EXPANDED)
        return self.bytes

    def __str__(self) -> str:
        return printable(str(self.path))


def budgets(sources: Sequence[SourceFile], tokens: int, share: float = 1.0) -> list[int]:
    """How many bytes of text to read of each source: all of it, or a level that fills their share of the pool."""
    left = int(share * max(POOL_BYTES, POOL_BYTES_PER_TOKEN * tokens))
    level: dict[int, int] = {}
    by_size = sorted(range(len(sources)), key=lambda index: sources[index].expanded)
    for done, index in enumerate(by_size):
        level[index] = min(sources[index].expanded, max(left // (len(sources) - done), 4096))
        left -= level[index]
    return [level[index] for index in range(len(sources))]


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """What no edit of a file and no replacement leaves as it was."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def sha256_of_files(sources: Sequence[SourceFile]) -> str:
    """The hash of the one file's bytes; of several, the hash of the lines `<hash> <name>`.

    Raises:
        CalibrationError: a file can't be read, or is no longer what it was when it was found.
    """
    digests = []
    for source in sources:
        digest, identity = _hashed(source)
        if identity != source.identity:
            raise CalibrationError(f"{source}: the file was changed while it was read; start again once it is written")
        digests.append(digest)
    return _joined(sources, digests)


def check_unchanged(sources: Sequence[SourceFile], sha256: str) -> None:
    """Compare files with what they were when they were read; `sha256` is that of `sha256_of_files`.

    They are hashed again only where the identity of one is another.

    Raises:
        CalibrationError: the bytes aren't the same, or one is gone.
    """
    changed = next((source for source in sources if _identity_now(source) != source.identity), None)
    if changed is None:
        return
    try:
        same = _joined(sources, [_hashed(source)[0] for source in sources]) == sha256
    except CalibrationError:
        same = False
    if not same:
        raise CalibrationError(
            f"{changed}: the calibration data were edited, replaced or removed while the checkpoint was being audited; "
            "audit it again"
        )


def _identity_now(source: SourceFile) -> tuple[int, ...] | None:
    try:
        return identity_of(source.path.stat())
    except OSError:
        return None


def _hashed(source: SourceFile) -> tuple[str, tuple[int, ...]]:
    """The hash of a file's bytes, and its identity once they were read."""
    try:
        handle = os.open(source.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "it is no file any more")
            return hashlib.file_digest(file, "sha256").hexdigest(), identity_of(os.fstat(handle))
    except OSError as error:
        raise CalibrationError(f"{source}: the calibration data can't be read: {error.strerror}") from error


def _joined(sources: Sequence[SourceFile], digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    lines = (f"{digest} {source.name}\n" for digest, source in zip(digests, sources, strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
