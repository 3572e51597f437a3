"""Progress as an object that is passed in. The library is silent unless it is given another one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

__all__ = ["SILENT", "Clock", "Metered", "Progress", "SilentProgress"]


class Progress(Protocol):
    """What the audit tells of its progress. One stage at a time; stages don't nest."""

    def stage(self, name: str, total: int) -> None:
        """A stage of `total` equal steps begins, and the stage before it, if any, has ended."""
        ...

    def advance(self, steps: int = 1) -> None:
        """`steps` more steps of the current stage are done."""
        ...


@runtime_checkable
class Metered(Protocol):
    """A progress that shows how much was computed within a stage, too."""

    def metered(self, meter: Callable[[], float], expected: float | None = None) -> None:
        """From now on `meter` says, from any thread, how much was computed so far, in forward passes; `expected` is
        about how many there will be, if that is known.
        """
        ...


class SilentProgress:
    """Says nothing."""

    def stage(self, name: str, total: int) -> None:
        """Say nothing."""

    def advance(self, steps: int = 1) -> None:
        """Say nothing."""


SILENT: Progress = SilentProgress()


class Clock:
    """Passes everything on and keeps the seconds that each stage took, and its work where there is a meter.

    Attributes:
        meter: says how much was computed so far, in forward passes.

    Args:
        progress: whom to tell.
    """

    def __init__(self, progress: Progress = SILENT) -> None:
        self.meter: Callable[[], float] = lambda: 0.0
        self._progress = progress
        self._seconds: dict[str, float] = {}
        self._work: dict[str, float] = {}
        self._stage: tuple[str, float, float] | None = None

    def stage(self, name: str, total: int) -> None:
        """End the stage before, begin this one, or go on with it if it is the same."""
        self._begin(name)
        self._progress.stage(name, total)

    def metered(self, meter: Callable[[], float], expected: float | None = None) -> None:
        """Take work by this meter from now on, and pass it on to who shows it."""
        self.meter = meter
        if isinstance(self._progress, Metered):
            self._progress.metered(meter, expected)

    def took(self, name: str | None, seconds: float) -> None:
        """So much time was spent on a stage earlier, which begins with this; on the current one if it has no name."""
        if name is not None:
            self._begin(name)
        if self._stage is not None:
            current = self._stage[0]
            self._seconds[current] = self._seconds.get(current, 0.0) + seconds

    def advance(self, steps: int = 1) -> None:
        """Pass it on."""
        self._progress.advance(steps)

    def seconds(self) -> tuple[tuple[str, float], ...]:
        """Seconds by stage, in order, the current one ended now."""
        self._end()
        return tuple(self._seconds.items())

    def work(self) -> tuple[tuple[str, float], ...]:
        """Work by stage that had any, in order, the current one ended now."""
        self._end()
        return tuple((name, done) for name, done in self._work.items() if done)

    def _begin(self, name: str) -> None:
        if self._stage is None or self._stage[0] != name:
            self._end()
            self._stage = (name, time.perf_counter(), self.meter())

    def _end(self) -> None:
        if self._stage is not None:
            name, start, before = self._stage
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
            self._work[name] = self._work.get(name, 0.0) + self.meter() - before
            self._stage = None
