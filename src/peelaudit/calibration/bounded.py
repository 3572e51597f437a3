"""Work that a file of strangers decides on, done in a child process that is ended where it takes too much.

A tokenizer is a program: a normaliser can double a text forty times, a precompiled map abort the process, a chat
template loop for ever or ask for gigabytes in one instruction; nothing within the process can stop that. What its
libraries print on the way stays in the child.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import logging
import math
import os
import select
import signal
import struct
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from peelaudit.errors import CalibrationError

__all__ = ["Child", "GivenUp", "Limits"]

_ANSWER = struct.Struct("!BI")
_REQUEST = struct.Struct("!dI")
_CHUNK = 1 << 16
_TOO_LONG, _TOO_MUCH = "it takes too long", "it takes too much memory or computing"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may take: CPU seconds and seconds by the clock for a request, and beyond the process's own bytes of
    memory; and how many bytes an answer may have.
    """

    computing: float = 10.0
    waiting: float = 300.0
    memory: int = 2 << 30
    length: int = 1 << 26


class GivenUp(Exception):
    """A request took too much; the message says what of."""


class Child:
    """A process that does `work` on request, with what `start` gave it; it ends with this object.

    Requests and answers are what JSON has. Where processes can't fork the work is done in this one, without a limit.

    Args:
        work: raises CalibrationError where it can't.
        limits: what it may take.
    """

    def __init__(self, work: Callable[[Any], Any], limits: Limits | None = None) -> None:
        self._work, self._limits = work, limits or Limits()
        if not hasattr(os, "fork"):
            return
        requests, answers = os.pipe(), os.pipe()
        pid = _fork()
        if pid == 0:
            os.close(requests[1])
            os.close(answers[0])
            _serve(work, self._limits, requests[0], answers[1])
        os.close(requests[0])
        os.close(answers[1])
        self._requests = os.fdopen(requests[1], "wb", buffering=0)
        self._answers = os.fdopen(answers[0], "rb", buffering=0)
        self._pid, self._end = pid, weakref.finalize(self, _end, pid, self._requests, self._answers)

    def ask(self, request: Any, *, computing: float | None = None) -> Any:
        """What the work makes of a request. `computing` stands in for the limit of that name.

        Raises:
            CalibrationError: the work raised it.
            GivenUp: it took too much, now or in an earlier request.
        """
        if not hasattr(os, "fork"):
            return self._work(request)
        raw = json.dumps(request).encode("ascii")
        deadline = time.monotonic() + self._limits.waiting
        try:
            self._requests.write(_REQUEST.pack(computing or self._limits.computing, len(raw)))
            _write(self._requests, raw)
            sound, length = _ANSWER.unpack(_exactly(self._answers, _ANSWER.size, deadline))
            told = json.loads(_exactly(self._answers, length, deadline))
        except TimeoutError:
            self.close()
            raise GivenUp(_TOO_LONG) from None
        except (EOFError, OSError, ValueError):  # the last where it was closed before
            raise GivenUp(_TOO_LONG if self._ended_by() == signal.SIGXCPU else _TOO_MUCH) from None
        if not sound:
            raise CalibrationError(told)
        return told

    def _ended_by(self) -> int | None:
        """The signal that has ended the process, if one did."""
        ended = None
        if self._end.alive:
            with contextlib.suppress(ChildProcessError):
                _, status = os.waitpid(self._pid, 0)
                ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            self._end.detach()
            self._requests.close()
            self._answers.close()
        return ended

    def close(self) -> None:
        """End the process."""
        if hasattr(os, "fork"):
            self._end()


def _end(pid: int, *pipes: BinaryIO) -> None:
    for pipe in pipes:
        pipe.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _write(pipe: BinaryIO, raw: bytes) -> None:
    left = memoryview(raw)
    while left:
        left = left[pipe.write(left) :]


def _exactly(pipe: BinaryIO, count: int, deadline: float = math.inf) -> bytes:
    """So many bytes.

    Raises:
        TimeoutError: they aren't there by then.
        EOFError: the other end is gone.
    """
    found = bytearray()
    while len(found) < count:
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
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


def _serve(work: Callable[[Any], Any], limits: Limits, requests: int, answers: int) -> NoReturn:
    """The child: it answers until nobody asks, and ends without any of the process's own endings."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        faulthandler.disable()
        logging.disable()
        sys.stdout = sys.stderr = io.StringIO()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        _confine_memory(limits.memory)
        with os.fdopen(requests, "rb", buffering=0) as asked, os.fdopen(answers, "wb", buffering=0) as told:
            while True:
                computing, length = _REQUEST.unpack(_exactly(asked, _REQUEST.size))
                _confine_computing(computing)
                _write(told, _answer(work, json.loads(_exactly(asked, length)), limits))
    finally:
        os._exit(0)


def _answer(work: Callable[[Any], Any], request: Any, limits: Limits) -> bytes:
    try:
        sound, answer = True, work(request)
    except CalibrationError as error:
        sound, answer = False, str(error)
    raw = json.dumps(answer).encode("ascii")
    if len(raw) > limits.length:
        raise MemoryError
    return _ANSWER.pack(sound, len(raw)) + raw


def _confine_computing(seconds: float) -> None:
    """End this process after so many CPU seconds more."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if most == resource.RLIM_INFINITY else min(soft, most), most))


def _confine_memory(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
