"""The files that hold the calibration data: how large they are, how much of each is read, and their hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peelaudit.errors import CalibrationError
from peelaudit.escape import printable

__all__ = ["SourceFile", "budgets", "sha256_of_files"]

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

    `modified` is the time of its last change, in nanoseconds. `packing` is `gz` or `zst`, empty where it is plain.
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


def budgets(sources: Sequence[SourceFile], tokens: int, share: float = 1.0) -> list[int]:
    """How many bytes of text to read of each source: all of it, or a level that fills their share of the pool."""
    left = int(share * max(POOL_BYTES, POOL_BYTES_PER_TOKEN * tokens))
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
