"""Work that a file of strangers decides on, done in a child process that is ended where it takes too long.

A chat template is a program: sandboxed as it is, it can loop for ever, or ask for gigabytes in one instruction that
nothing within the process can stop.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import select
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from peelaudit.errors import CalibrationError

__all__ = ["Limits", "in_child"]

T = TypeVar("T")
_HEADER = struct.Struct("!BI")
_CHUNK = 1 << 16


class Limits:
    """What the work may take: `seconds` for one item and for all, `memory` beyond the process's own, and the `length`
    of a result, both in bytes.
    """

    def __init__(
        self, *, seconds: float = 30, all_seconds: float = 600, memory: int = 1 << 30, length: int = 1 << 24
    ) -> None:
        self.seconds, self.all_seconds, self.memory, self.length = seconds, all_seconds, memory, length


def in_child(
    work: Callable[[T], str], items: Sequence[T], limits: Limits, failed: Callable[[T, str], str]
) -> list[str]:
    """What `work` makes of each item.

    Args:
        work: raises CalibrationError where it can't.
        items: what it is given, in turn.
        limits: what it may take.
        failed: from an item, and why it was given up, to a sentence.

    Raises:
        CalibrationError: `work` raised it, or took too much.
    """
    if not items:
        return []
    if not hasattr(os, "fork"):
        return [work(item) for item in items]
    reading, writing = os.pipe()
    child = _fork()
    if child == 0:
        _serve(work, items, limits, reading, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            return _gathered(pipe, items, limits, failed)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _gathered(pipe: BinaryIO, items: Sequence[T], limits: Limits, failed: Callable[[T, str], str]) -> list[str]:
    results: list[str] = []
    last = time.monotonic() + limits.all_seconds
    for item in items:
        deadline = min(last, time.monotonic() + limits.seconds)
        try:
            sound, length = _HEADER.unpack(_exactly(pipe, _HEADER.size, deadline))
            told: str = json.loads(_exactly(pipe, length, deadline))
        except TimeoutError:
            raise CalibrationError(failed(item, "it takes too long")) from None
        except EOFError:
            raise CalibrationError(failed(item, "it takes too much memory or computing")) from None
        if not sound:
            raise CalibrationError(told)
        results.append(told)
    return results


def _exactly(pipe: BinaryIO, count: int, deadline: float) -> bytes:
    """So many bytes.

    Raises:
        TimeoutError: they aren't there by then.
        EOFError: the child has ended.
    """
    found = bytearray()
    while len(found) < count:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        chunk = pipe.read(min(_CHUNK, count - len(found)))
        if not chunk:
            raise EOFError
        found += chunk
    return bytes(found)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child runs none of their code
        return os.fork()


def _serve(work: Callable[[T], str], items: Sequence[T], limits: Limits, reading: int, writing: int) -> None:
    """The child: it writes each result to the pipe, and ends without any of the process's own endings."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.close(reading)
        logging.disable()
        sys.stdout = sys.stderr = io.StringIO()
        _confine(limits)
        with os.fdopen(writing, "wb") as pipe:
            for told in _told(work, items, limits):
                pipe.write(told)
                pipe.flush()
    finally:
        os._exit(0)


def _told(work: Callable[[T], str], items: Sequence[T], limits: Limits) -> Iterator[bytes]:
    for item in items:
        try:
            sound, text = True, work(item)
        except CalibrationError as error:
            sound, text = False, str(error)
        raw = json.dumps(text).encode("ascii")
        if len(raw) > limits.length:
            return
        yield _HEADER.pack(sound, len(raw)) + raw


def _confine(limits: Limits) -> None:
    """Take the means to use more memory or computing than is allowed, should the parent be gone."""
    import resource

    seconds = int(limits.all_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + limits.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
