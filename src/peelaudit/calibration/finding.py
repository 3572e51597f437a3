"""Which files hold the calibration data: those given, else `calibration.*` beside the checkpoint, else none."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peelaudit.calibration.saved_datasets import saved_files
from peelaudit.calibration.sources import SourceFile, identity_of
from peelaudit.errors import CalibrationError, ConfigError
from peelaudit.escape import printable

__all__ = ["Part", "find_parts"]

KINDS = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".npy": "npy",
    ".bin": "bin",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".json": "json",
}
"""The kind of a file by its suffix, in the order of preference of several `calibration.*`."""

PACKINGS = {".gz": "gz", ".zst": "zst"}
"""How a file is packed, by the suffix behind that of its kind."""

_PACKED = {".txt": "txt", ".jsonl": "jsonl", ".json": "json"}
"""What may be packed."""

_SETTINGS = ("json", "")
"""What is left alone in a directory: it may as well hold settings."""

_SUFFIXES = (*KINDS, *(f"{inner}{outer}" for inner in _PACKED for outer in PACKINGS))

_KNOWN = f"{', '.join(KINDS)}, or {', '.join(_PACKED)} with {' or '.join(PACKINGS)} behind it, file"

MAX_FILES = 100_000
"""Files of one data directory; more are refused."""

_NOT_FILES = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """Files that have one weight together: the share of the tokens that they are to give, and what they are called."""

    name: str
    share: float
    sources: tuple[SourceFile, ...]


def find_parts(data: Sequence[str], checkpoint: Path) -> tuple[Part, ...]:
    """The files to read, in the order given and by name within a directory: one part for each weight that is given, one
    for all without weights, and none where the built-in text is to serve.

    Raises:
        CalibrationError: a path is missing, isn't a regular file, is of no supported kind, or a directory holds none.
        ConfigError: a weight isn't a number above 0, or some paths have one and others not.
    """
    given = [_weighed(text) for text in data]
    weights = [weight for _, weight in given if weight is not None]
    if not weights:
        sources = tuple(source for path, _ in given for source in _expand(path)) or _beside(checkpoint)
        name = printable(", ".join(data)) or "".join(map(str, sources))
        return (Part(name, 1.0, sources),) if sources else ()
    if len(weights) < len(given):
        without = next(printable(str(path)) for path, weight in given if weight is None)
        raise ConfigError(f"data has weights, and {without} has none: give every path one, as PATH=WEIGHT, or no path")
    total = math.fsum(weights)
    return tuple(
        Part(printable(str(path)), weight / total, tuple(_expand(path)))
        for (path, _), weight in zip(given, weights, strict=True)
    )


def _weighed(text: str) -> tuple[Path, float | None]:
    """A path and its weight, which stands behind the last `=` of what isn't there by its whole name."""
    path, _, number = text.rpartition("=")
    if not path or os.path.lexists(text):
        return Path(text), None
    try:
        weight = float(number)
    except ValueError:
        return Path(text), None
    if not 0 < weight < math.inf:
        raise ConfigError(f"data is {text!r}: a weight is a number above 0")
    return Path(path), weight


def _beside(checkpoint: Path) -> tuple[SourceFile, ...]:
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    found = next((path for suffix in _SUFFIXES if (path := folder / f"calibration{suffix}").exists()), None)
    return () if found is None else (_source(found, found.name),)


def _expand(path: Path) -> Iterator[SourceFile]:
    if not path.is_dir():
        yield _source(path, path.name)
        return
    found = _walk(path)
    if not found:
        raise CalibrationError(f"{printable(str(path))}: the directory holds no {_KNOWN}")
    for name in found:
        yield _source(path / name, name)


def _walk(directory: Path) -> list[str]:
    """The data files by name, those of a dataset that was saved there in its own order."""
    found: dict[str, list[str]] = {}
    for folder, folders, files in os.walk(directory):
        here = Path(folder).relative_to(directory)
        if (saved := saved_files(Path(folder))) is not None:
            found[here.as_posix()] = [(here / name).as_posix() for name in saved]
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [
            (here / name).as_posix()
            for name in files
            if not name.startswith(".") and _kind(name) not in (None, _SETTINGS)
        ]
        found |= {name: [name] for name in names}
        if len(found) > MAX_FILES:
            raise CalibrationError(f"{printable(str(directory))}: the directory holds more than {MAX_FILES} data files")
    return [name for place in sorted(found) for name in found[place]]


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
    return SourceFile(path, name, kind[0], status.st_size, identity_of(status), kind[1])
