"""Cases given to long-lived processes, and what became of them: a process that ends is its case's doing."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from tests.places import ROOT

__all__ = ["LIMITS", "Limits", "Outcome", "run"]

_AT_ONCE = 200
_STARTING = 600.0
"""Seconds by the clock for a process to begin its first case: it imports torch and makes the sound files."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a case may take, in CPU seconds and in seconds by the clock; and the module that has the formats."""

    computing: int = 10
    waiting: float = 120.0
    table: str = "bench.fuzz.formats.table"


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case.

    Attributes:
        form: the format.
        number: which case of it.
        outcome: `opened`, `ended`, or the name of what was raised.
        wrong: what should not have been.
        trace: where that came from, line by line.
        seconds: CPU seconds of the process, and `children` of those that it started.
        memory: bytes that it grew by at most.
    """

    form: str
    number: int
    outcome: str
    wrong: tuple[str, ...]
    trace: str = ""
    seconds: float = 0.0
    children: float = 0.0
    memory: float = 0.0


def run(
    counts: Mapping[str, int], *, seed: int, jobs: int = 1, first: int = 0, limits: Limits = LIMITS
) -> Iterator[Outcome]:
    """So many cases of each format, by so many processes at a time; `first` is the number of a format's first one."""
    work: deque[tuple[str, int, int]] = deque(
        (form, begin, min(_AT_ONCE, first + count - begin))
        for form, count in counts.items()
        for begin in range(first, first + count, _AT_ONCE)
    )
    found: SimpleQueue[Outcome | None] = SimpleQueue()

    def serve() -> None:
        child = _Child(limits)
        try:
            while work:
                for outcome in child.cases(*work.popleft(), seed):
                    found.put(outcome)
        finally:
            child.close()
            found.put(None)

    with ThreadPoolExecutor(jobs) as pool:
        servers = [pool.submit(serve) for _ in range(jobs)]
        while jobs:
            outcome = found.get()
            if outcome is None:
                jobs -= 1
            else:
                yield outcome
        for server in servers:
            server.result()


class _Child:
    """One process, started again when a case has ended it."""

    def __init__(self, limits: Limits) -> None:
        # A short path: messages leave out the middle of a long one.
        self._root = Path(tempfile.mkdtemp(prefix="fz-", dir="/tmp"))
        self._limits, self._left, self._silent = limits, b"", False
        self._process: subprocess.Popen[bytes] | None = None

    def cases(self, form: str, first: int, count: int, seed: int) -> Iterator[Outcome]:
        """So many cases, each with its outcome."""
        number, end = first, first + count
        while number < end:
            asked, told = self._started()
            asked.write(f"{form} {seed} {number} {end - number}\n".encode())
            asked.flush()
            begun = None
            while number < end:
                line = self._line(told, _STARTING if begun is None else self._limits.waiting)
                if line is None and begun is None:
                    raise RuntimeError(f"{form}: the process has no case yet: {self._ended()}")
                if line is None:
                    yield Outcome(form, number, "ended", (self._ended(),))
                    number += 1
                    break
                what, _, rest = line.partition(" ")
                if what == "begin":
                    begun = number
                else:
                    made = json.loads(rest)
                    yield Outcome(form, number, **{**made, "wrong": tuple(made["wrong"])})
                    number += 1

    def _started(self) -> tuple[IO[bytes], IO[bytes]]:
        """The process's ends."""
        if self._process is None:
            shutil.rmtree(self._root, ignore_errors=True)
            limits, self._left = self._limits, b""
            command = ["-m", "bench.fuzz.child", str(self._root), limits.table, str(limits.computing)]
            environ = {**os.environ, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _line(self, told: IO[bytes], waiting: float) -> str | None:
        """The process's next line; None where it has ended, or says nothing for too long."""
        while b"\n" not in self._left:
            self._silent = not select.select([told], [], [], waiting)[0]
            if self._silent or not (more := os.read(told.fileno(), 1 << 16)):
                return None
            self._left += more
        line, _, self._left = self._left.partition(b"\n")
        return line.decode()

    def _ended(self) -> str:
        """Why the process says nothing any more; it is gone then."""
        assert self._process is not None
        if self._silent:
            self._end()
            return f"waits for over {self._limits.waiting:g} seconds"
        code = self._process.wait()
        self._end()
        if code == -signal.SIGXCPU:
            return f"takes over {self._limits.computing} CPU seconds"
        path = self._root / "printed"
        printed = path.read_bytes()[-1000:].decode("utf-8", "replace") if path.exists() else ""
        return f"ended the process by {signal.Signals(-code).name if code < 0 else code}: {printed!r}"

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        """End the process and remove its directory."""
        self._end()
        shutil.rmtree(self._root, ignore_errors=True)
