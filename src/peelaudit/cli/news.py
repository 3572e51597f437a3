"""What `batch` says of each checkpoint while it is at work."""

from __future__ import annotations

import time
from collections.abc import Sequence

from peelaudit.cli.guard import say
from peelaudit.records import TaskRow, TaskState

__all__ = ["News"]


class News:
    """A line on stderr as each audit begins and as it ends, for whoever reads a log.

    Args:
        checkpoints: all of them, by whose order each has its number.
        terminal: say the failures alone: a bar tells the rest there.
    """

    def __init__(self, checkpoints: Sequence[str], *, terminal: bool) -> None:
        self._places = {path: f"{place} of {len(checkpoints)}" for place, path in enumerate(checkpoints, 1)}
        self._terminal = terminal
        self._begun: dict[str, float] = {}

    def tell(self, row: TaskRow) -> None:
        """A row has come: RUNNING as its audit begins, and again, with a reason, where another process is at it."""
        if self._terminal:
            if row.state is TaskState.FAILED:
                say(f"failed: {row.checkpoint}: {row.reason}")
            return
        say(f"{self._places[row.checkpoint]} {self._words(row)}")

    def _words(self, row: TaskRow) -> str:
        if row.state is TaskState.RUNNING:
            if row.reason is not None:
                return f"waits: {row.checkpoint}: {row.reason}"
            self._begun[row.checkpoint] = time.monotonic()
            return f"begins: {row.checkpoint}"
        begun = self._begun.get(row.checkpoint)
        took = "" if begun is None else f" in {time.monotonic() - begun:.1f} s"
        found = row.reason if row.figures is None else f"verdict {row.figures.verdict}"
        return f"{row.state}{took}: {row.checkpoint}: {found}"
