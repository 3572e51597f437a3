"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from pathlib import Path

from peelaudit.errors import OutputError

__all__ = ["check_writable", "write_whole"]

_PREFIX, _SUFFIX = ".peelaudit-", ".tmp"
_RANDOM = 8
"""Signs that `tempfile` puts between the two."""
_STALE = 3600.0
"""Seconds after which nobody is still writing a file: that takes less than one."""


def check_writable(path: Path) -> None:
    """Raise OutputError now rather than after an hour's audit, if `path` can't be written.

    What runs that were killed while they wrote it have left beside it is removed, once it is an hour old.
    """
    try:
        target = _target(path)
        if target.is_dir():
            raise OutputError(f"{path} is a directory")
        if target.exists() and not os.access(target, os.W_OK):
            raise OutputError(f"{path} is write-protected")
        if _is_special(target):
            return
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=_beginning(target), suffix=_SUFFIX):
            pass
        _clear(target)
    except OSError as error:
        raise _failure(path, error) from error


def write_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8 and replace what `path` held; on failure `path` is left as it was.

    A device or a pipe is written to in place. A symbolic link stays one.

    Raises:
        OutputError: the directory is missing, the disk is full, and so on.
    """
    data = text.encode("utf-8", "backslashreplace")
    try:
        target = _target(path)
        if _is_special(target):
            target.write_bytes(data)
        else:
            _replace(target, data)
    except OSError as error:
        raise _failure(path, error) from error


def _replace(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=_beginning(target), suffix=_SUFFIX)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_mode(target))
        temporary.replace(target)
        _sync(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _beginning(target: Path) -> str:
    """What the names of its temporary files begin with."""
    return f"{_PREFIX}{target.name[-40:]}."


def _clear(target: Path) -> None:
    """Remove the temporary files of its that are this user's own and old."""
    beginning = _beginning(target)
    with os.scandir(target.parent) as entries:
        names = [entry for entry in entries if entry.name.startswith(beginning) and entry.name.endswith(_SUFFIX)]
    for entry in names:
        with contextlib.suppress(OSError):
            found = entry.stat(follow_symlinks=False)
            own = stat.S_ISREG(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())
            exact = len(entry.name) == len(beginning) + _RANDOM + len(_SUFFIX)
            if own and exact and time.time() - found.st_mtime > _STALE:
                Path(entry.path).unlink()


def _sync(directory: Path) -> None:
    """Make the renaming last as well, where the system can: some can't open a directory, or not sync it."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _mode(target: Path) -> int:
    """The file's present permissions, or those that the umask gives a new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _target(path: Path) -> Path:
    """What a symbolic link leads to. /dev/stdout leads to a pipe, which has no name of its own to open."""
    return path.resolve() if path.is_symlink() and not _is_special(path) else path


def _is_special(path: Path) -> bool:
    """Whether `path` is there and neither a file nor a directory."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _failure(path: Path, error: OSError) -> OutputError:
    if isinstance(error, FileNotFoundError):
        return OutputError(f"{path} can't be written: there is no directory {path.parent}")
    return OutputError(f"{path} can't be written: {error.strerror or error}")
