"""Files read whole, that may be none: opening a pipe that nobody writes to would wait for ever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["read_plain"]


def read_plain(path: Path, most: int | None = None) -> bytes:
    """The bytes of a regular file, the first `most` of them if that is given.

    Raises:
        OSError: there is no such file, it can't be read, or it is a directory, a pipe, a socket or a device.
        ValueError: the path holds a zero byte.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device", str(path))
        return file.read() if most is None else file.read(most)
