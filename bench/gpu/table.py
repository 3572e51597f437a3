"""A table of checks that grows line by line: each is run, timed, told, and never the end of the others."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import torch

__all__ = ["Check", "Found", "Outcome", "Row", "Skipped", "Table"]

WIDTHS = (34, 7, 9, 9, 9, 8)
HEADS = ("check", "device", "dtype", "error", "tolerance", "seconds", "outcome")
LAST_LINES = 12
"""Lines of a traceback that are kept."""


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "FAILED"
    SKIPPED = "skipped"


class Skipped(Exception):
    """A check can't be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found. It passes where `error` is at most `tolerance`; without these, where it came to its end."""

    error: float | None = None
    tolerance: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error is None or self.tolerance is None or self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class Check:
    """Something to run: `run` returns what it found, or raises."""

    name: str
    device: str
    dtype: str
    run: Callable[[], Found]


@dataclass(frozen=True, slots=True)
class Row:
    check: str
    device: str
    dtype: str
    error: float | None
    tolerance: float | None
    seconds: float
    outcome: Outcome
    note: str = ""
    traceback: str = ""

    def cells(self) -> tuple[str, ...]:
        numbers = ("" if value is None else f"{value:.1e}" for value in (self.error, self.tolerance))
        outcome = f"{self.outcome}{': ' if self.note else ''}{self.note}"
        return (self.check, self.device, self.dtype, *numbers, f"{self.seconds:.1f}", outcome)


class Table:
    """Runs checks one after another and prints a line for each.

    Args:
        device: where they compute: it is asked after a failure whether it still answers.
        budget: seconds after which no new check is begun.
        out: a folder for the table as Markdown and as JSON, written anew after each line.
        title: what the written table is headed by.
        only: a part of the names of the checks that are run; the others are passed over.
    """

    def __init__(self, device: torch.device, budget: float, out: Path | None, title: str, *, only: str = "") -> None:
        self.rows: list[Row] = []
        self._only = only
        self._device, self._out, self._title = device, out, title
        self._deadline = time.monotonic() + budget
        self._lost = ""
        print(title, _line(HEADS), sep="\n\n", flush=True)

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self._deadline - time.monotonic()

    def run(self, check: Check) -> None:
        """Run it, unless there is no time for it or the device is lost."""
        if self._only not in check.name:
            return
        begun = time.monotonic()
        try:
            if self.left <= 0:
                raise Skipped("the time is up")
            if self._lost:
                raise Skipped(f"the device answers no more since {self._lost}")
            found = check.run()
        except Skipped as reason:
            row = self._row(check, begun, Found(note=str(reason)), Outcome.SKIPPED)
        except Exception as error:
            lines = traceback.format_exc().splitlines()[-LAST_LINES:]
            note = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
            row = self._row(check, begun, Found(note=note), Outcome.FAILED, "\n".join(lines))
            self._ask_the_device(check)
        else:
            row = self._row(check, begun, found, Outcome.PASSED if found.passed else Outcome.FAILED)
        self._add(row)

    def finish(self) -> int:
        """Print what failed and how many did; the exit code."""
        for row in self.rows:
            if row.traceback:
                print(f"\n{row.check}, {row.device}, {row.dtype}\n{row.traceback}")
        counts = Counter(row.outcome for row in self.rows)
        print("\n" + ", ".join(f"{counts[outcome]} {outcome.lower()}" for outcome in Outcome), flush=True)
        return 1 if counts[Outcome.FAILED] else 0

    @staticmethod
    def _row(check: Check, begun: float, found: Found, outcome: Outcome, lines: str = "") -> Row:
        seconds = time.monotonic() - begun
        return Row(
            check.name, check.device, check.dtype, found.error, found.tolerance, seconds, outcome, found.note, lines
        )

    def _ask_the_device(self, check: Check) -> None:
        """After some errors every call to a CUDA device fails: then the other checks would say nothing of their own."""
        gc.collect()
        try:
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            torch.ones(1, device=self._device).sum().item()
        except Exception:
            self._lost = check.name

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        print(_line(row.cells()), flush=True)
        if self._out is not None:
            self._out.mkdir(parents=True, exist_ok=True)
            (self._out / "gpu-check.md").write_text(self.markdown(), encoding="utf-8")
            content = {"title": self._title, "rows": [asdict(row) for row in self.rows]}
            (self._out / "gpu-check.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def markdown(self) -> str:
        rule = ("---", "---", "---", "--:", "--:", "--:", "---")
        cells = (HEADS, rule, *(row.cells() for row in self.rows))
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]
        failures = [f"\n{row.check}, {row.dtype}:\n\n```\n{row.traceback}\n```" for row in self.rows if row.traceback]
        return "\n".join((self._title, "", *lines, *failures)) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    padded = (
        cell.ljust(width) if index < 3 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, WIDTHS, strict=False))
    )
    return " ".join((*padded, cells[-1]))
