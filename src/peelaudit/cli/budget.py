"""What `budget` does. The computing half is imported once the flags are read."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from peelaudit.cli.gating import Flags
from peelaudit.cli.guard import say, write_out
from peelaudit.cli.output import Paper, collecting, paper, parse_paths
from peelaudit.cli.progress import progress_on
from peelaudit.errors import ConfigError, OutputError
from peelaudit.fleet.finding import suggesting_batch
from peelaudit.reports.formats.tensor_types import TYPES
from peelaudit.reports.writing import check_writable, write_whole
from peelaudit.settings import resolve

if TYPE_CHECKING:
    from peelaudit.records.budget import Budget

__all__ = ["BudgetFlags", "PlanFormat", "run_budget"]


class PlanFormat(StrEnum):
    """A budget's format, by the name that flags have for it."""

    TABLE = "table"
    JSON = "json"
    LLAMA_CPP = "llama.cpp"


_SUFFIXES: Mapping[PlanFormat, tuple[str, ...]] = {
    PlanFormat.TABLE: (".txt",),
    PlanFormat.JSON: (".json",),
    PlanFormat.LLAMA_CPP: (".tensor-types",),
}


@dataclass(frozen=True, slots=True)
class BudgetFlags:
    """The command's own flags, as they were given."""

    average: str
    widths: str
    group: str
    passes: str

    def bits(self) -> tuple[float, tuple[int, ...]]:
        """The average, and the widths that there are. Raises ConfigError."""
        widths = _widths(self.widths)
        expected = f"bits of a weight, from {widths[0]} to {widths[-1]} as --widths has them"
        return _number("--average", self.average, widths[0], widths[-1], expected), widths

    def length(self) -> int:
        """Of a group. Raises ConfigError."""
        if not (self.group.isascii() and self.group.isdigit() and 0 < int(self.group) <= 1 << 20):
            raise ConfigError(f"--group is {self.group!r}: expected how many inputs share a scale, 1 or more")
        return int(self.group)

    def limit(self) -> float:
        """Forward passes. Raises ConfigError."""
        if self.passes == "all":
            return math.inf
        return _number("--passes", self.passes, 1.0, sys.float_info.max, "forward passes, 1 or more, or all")


def _number(flag: str, text: str, least: float, most: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise ConfigError(f"{flag} is {text!r}: expected {expected}")
    return value


def _widths(text: str) -> tuple[int, ...]:
    words = text.split(",")
    known = {str(width): width for width in TYPES}
    if len(set(words)) < 2 or not known.keys() >= set(words):
        raise ConfigError(f"--widths is {text!r}: expected two or more of {', '.join(known)}")
    return tuple(sorted({known[word] for word in words}))


def run_budget(
    checkpoint: str, flags: Flags, own: BudgetFlags, *, format_name: str, outputs: Sequence[str], quiet: bool
) -> None:
    """`peelaudit budget`."""
    problems: list[str] = []
    targets: tuple[tuple[str, Path], ...] = ()
    with collecting(problems):
        targets = parse_paths(outputs, {str(form): suffixes for form, suffixes in _SUFFIXES.items()})
    with collecting(problems):
        config = resolve(checkpoint, flags, environ=os.environ, directory=Path.cwd())
    with collecting(problems):
        average, widths = own.bits()
    with collecting(problems):
        group = own.length()
    with collecting(problems):
        passes = own.limit()
    if format_name not in list(PlanFormat):
        problems.append(f"--format is {format_name!r}: expected {' | '.join(PlanFormat)}")
    if problems:
        raise ConfigError(*problems)
    for _, path in targets:
        check_writable(path)
    with progress_on(sys.stderr, quiet=quiet) as progress, suggesting_batch(checkpoint):
        progress.stage("starting", 1)
        from peelaudit.auditing.budgeting import Wish, budget

        named = PlanFormat.LLAMA_CPP in (format_name, *(name for name, _ in targets))
        found = budget(config, Wish(average, widths, group, passes, named), progress=progress)
    if not quiet:
        for warning in found.warnings:
            say(f"warning: {warning}")
    _deliver(found, PlanFormat(format_name), targets)


def _deliver(found: Budget, form: PlanFormat, targets: Sequence[tuple[str, Path]]) -> None:
    """Write it to every target and to stdout; one that fails doesn't keep it from the others."""
    sheet, problems = paper(), []
    for name, path in targets:
        try:
            write_whole(path, _text(found, PlanFormat(name), Paper(80, colour=False, encoding="utf-8")))
        except OutputError as error:
            problems.append(str(error))
    write_out(_text(found, form, sheet), encoding=sheet.encoding)
    if problems:
        raise OutputError("; ".join(problems))


def _text(found: Budget, form: PlanFormat, sheet: Paper) -> str:
    if form is PlanFormat.LLAMA_CPP:
        from peelaudit.reports.formats.tensor_types import export

        return export(found)
    if form is PlanFormat.JSON:
        from peelaudit.records.json import dump

        return dump(found, type(found))
    from peelaudit.reports.terminal import render_budget

    return render_budget(found, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
