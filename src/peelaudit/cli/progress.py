"""Progress on stderr: on a terminal a bar, with the forward passes computed so far and the stage's time; elsewhere a
plain line per stage.

Nothing is shown before two seconds have passed: most audits of small checkpoints are over by then.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, TextIO, cast

from peelaudit.cli.guard import say
from peelaudit.escape import printable
from peelaudit.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

__all__ = ["BarProgress", "LineProgress", "progress_on"]

DELAY_S = 2.0


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


class _Delayed:
    """Keeps the present stage, and shows it once `begin` was called, which a timer's thread does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._ended = False
        self._name, self._total, self._done = "", 0, 0
        self._meter: Callable[[], float] = lambda: 0.0

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

    def metered(self, meter: Callable[[], float]) -> None:
        """How much was computed so far, in forward passes, is what this says."""
        self._meter = meter

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
            say(self._name)


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
                passes = shown._meter()
                return Text(f"{passes:.1f} passes" if passes else "")

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
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
