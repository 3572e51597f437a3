"""Progress on stderr: on a terminal a bar, with the forward passes computed so far, about how many there will be and
how long they may take; elsewhere a plain line per stage, with the same.

Nothing is shown before two seconds have passed: most audits of small checkpoints are over by then.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, TextIO, cast

from peelaudit.cli.guard import say
from peelaudit.escape import printable
from peelaudit.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

__all__ = ["BarProgress", "LineProgress", "progress_on"]

DELAY_S = 2.0
BAR_WIDTH = 8
"""So that the rest fits beside it in 80 columns."""
LEAST_DONE = 1.0
"""Forward passes after which it is told how long the rest may take."""


@contextlib.contextmanager
def progress_on(stream: TextIO | None, *, quiet: bool, delay_s: float = DELAY_S) -> Iterator[Progress]:
    """The progress that suits `stream`, and its end."""
    if quiet or stream is None:
        yield SILENT
        return
    shown: _Delayed = BarProgress(stream) if stream.isatty() else LineProgress()
    timer = threading.Timer(delay_s, shown.begin)
    timer.daemon = True
    timer.start()
    try:
        yield shown
    finally:
        timer.cancel()
        shown.end()


class _Outlook:
    """How far the work has come, and how much of it is left.

    Args:
        meter: how much was computed, in forward passes, some of it maybe before this began.
        expected: about how much there will be; None where that isn't known.
    """

    def __init__(self, meter: Callable[[], float] = lambda: 0.0, expected: float | None = None) -> None:
        self._meter, self._expected = meter, expected
        self._start, self._before = time.monotonic(), meter()

    def words(self) -> str:
        """`31.2 of ~98 passes, ~2 min left`; empty before anything was computed."""
        passes = self._meter()
        if not passes:
            return ""
        if self._expected is None or passes > self._expected:
            return f"{passes:.1f} passes"
        done, words = passes - self._before, f"{passes:.1f} of ~{self._expected:.0f} passes"
        if done < LEAST_DONE:
            return words
        return f"{words}, {_left((self._expected - passes) * (time.monotonic() - self._start) / done)} left"


def _left(seconds: float) -> str:
    """In the unit that suits it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"~{seconds / size:.0f} {unit}"
    return f"~{max(seconds, 1):.0f} s"


class _Delayed:
    """Keeps the present stage, and shows it once `begin` was called, which a timer's thread does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._ended = False
        self._name, self._total, self._done = "", 0, 0
        self._outlook = _Outlook()

    def stage(self, name: str, total: int) -> None:
        """A stage begins."""
        with self._lock:
            self._name, self._total, self._done = printable(name), total, 0
            self._draw(new=True)

    def advance(self, steps: int = 1) -> None:
        """Steps of the stage are done."""
        with self._lock:
            self._done += steps
            self._draw(new=False)

    def metered(self, meter: Callable[[], float], expected: float | None = None) -> None:
        """How much was computed so far, in forward passes, is what this says; and about how much there will be."""
        self._outlook = _Outlook(meter, expected)

    def begin(self) -> None:
        """From now on, show."""
        with self._lock:
            self._begun = not self._ended
            self._draw(new=True)

    def end(self) -> None:
        """Show no more."""
        with self._lock:
            self._ended, self._begun = True, False
            self._close()

    def _draw(self, *, new: bool) -> None:
        if self._begun and self._name:
            # A progress that can't be shown is no reason to lose the audit.
            with contextlib.suppress(OSError, ValueError):
                self._show(new=new)

    def _show(self, *, new: bool) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        """Take down what is shown."""


class LineProgress(_Delayed):
    """A line as each stage begins."""

    def _show(self, *, new: bool) -> None:
        if new:
            words = self._outlook.words()
            say(f"{self._name} ({words})" if words else self._name)


class _Careful(io.TextIOBase):
    """A stream for rich, which answers a broken pipe by closing *stdout* and leaving: a lost bar must not do that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it as an attribute
        """The stream's, by which rich chooses its characters."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class BarProgress(_Delayed):
    """One bar, of the present stage; it is gone at the end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = sys.stderr if stream is None else stream
        self._bars: Bars | None = None

    def _show(self, *, new: bool) -> None:
        bars = self._bars or self._open()
        if new:
            for task in bars.task_ids:
                bars.remove_task(task)
            bars.add_task(self._name, total=self._total or None, completed=self._done)
        elif bars.task_ids:
            bars.update(bars.task_ids[-1], completed=self._done)

    def _open(self) -> Bars:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        shown = self

        class Passes(ProgressColumn):
            """Moves within a stage whose steps are long."""

            def render(self, task: Task) -> Text:
                return Text(shown._outlook.words())

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            MofNCompleteColumn(),
            Passes(),
            TimeElapsedColumn(),
        )
        self._bars = Bars(*columns, console=Console(file=cast("IO[str]", _Careful(self._stream))), transient=True)
        self._bars.start()
        return self._bars

    def _close(self) -> None:
        if self._bars is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bars.stop()
