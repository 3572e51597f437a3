"""What `diff` does. The computing half is imported once the flags are read."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peelaudit.cli.gating import Flags
from peelaudit.cli.guard import say, write_out
from peelaudit.cli.output import Target, collecting, paper, parse_format, parse_targets
from peelaudit.cli.progress import progress_on
from peelaudit.errors import ConfigError, GateFailed, OutputError
from peelaudit.fleet.finding import suggesting_batch
from peelaudit.reports.formats import Format
from peelaudit.reports.formats.difference import FORMATS, export
from peelaudit.reports.writing import check_writable, write_whole
from peelaudit.settings import resolve

if TYPE_CHECKING:
    from peelaudit.records.difference import Difference

__all__ = ["DiffFlags", "run_diff"]


@dataclass(frozen=True, slots=True)
class DiffFlags:
    """The command's own flags, as they were given."""

    passes: str
    fail_over: str | None

    def budget(self) -> float:
        """Forward passes a direction. Raises ConfigError."""
        if self.passes == "all":
            return math.inf
        return _number("--passes", self.passes, least=1.0, expected="forward passes, 1 or more, or all")

    def limit(self) -> float | None:
        """What no part and no difference may cost. Raises ConfigError."""
        if self.fail_over is None:
            return None
        return _number("--fail-over", self.fail_over, least=0.0, expected="nats/token, 0 or more")


def run_diff(
    base: str, new: str, flags: Flags, own: DiffFlags, *, format_name: str, outputs: Sequence[str], quiet: bool
) -> None:
    """`peelaudit diff`."""
    problems: list[str] = []
    targets: tuple[Target, ...] = ()
    with collecting(problems):
        form = parse_format(format_name, allowed=FORMATS)
    with collecting(problems):
        targets = parse_targets(outputs)
    with collecting(problems):
        config = resolve(base, flags, environ=os.environ, directory=Path.cwd())
    with collecting(problems):
        budget = own.budget()
    with collecting(problems):
        limit = own.limit()
    known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    problems += [f"--output is {str(t.path)!r}: a difference is written as {known}" for t in _foreign(targets)]
    if problems:
        raise ConfigError(*problems)
    for target in targets:
        check_writable(target.path)
    with progress_on(sys.stderr, quiet=quiet) as progress, suggesting_batch(base), suggesting_batch(new):
        progress.stage("starting", 1)
        from peelaudit.auditing.differing import difference

        found = difference(config, Path(new), passes=budget, progress=progress)
    if not quiet:
        for warning in found.warnings:
            say(f"warning: {warning}")
    _deliver(found, form, targets)
    if limit is not None:
        _gate(found, limit)


def _foreign(targets: Sequence[Target]) -> list[Target]:
    return [target for target in targets if target.format not in FORMATS]


def _number(flag: str, text: str, *, least: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise ConfigError(f"{flag} is {text!r}: expected {expected}")
    return value


def _deliver(found: Difference, form: Format, targets: Sequence[Target]) -> None:
    """Write it to every target and to stdout; one that fails doesn't keep it from the others."""
    sheet, problems = paper(), []
    for target in targets:
        try:
            write_whole(target.path, export(found, target.format))
        except OutputError as error:
            problems.append(str(error))
    shown = export(found, form, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
    write_out(shown, encoding=sheet.encoding if form is Format.TABLE else "utf-8")
    if problems:
        raise OutputError("; ".join(problems))


def _gate(found: Difference, limit: float) -> None:
    """Raise GateFailed where the whole interval of a cost is over the limit."""
    costs = [("NEW", found.whole), *((row.name, row.in_base) for row in found.rows)]
    over = [f"{name} costs {cost.value:+.4f} ({cost.low:+.4f}..)" for name, cost in costs if cost.low > limit]
    if over:
        raise GateFailed(f"gate failed: over {limit:g} nats/token: {', '.join(over)}")
