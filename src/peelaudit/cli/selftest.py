"""What `selftest` does. The computing half is imported once the flags are read."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from peelaudit.cli.gating import Flags
from peelaudit.cli.output import collecting, parse_format, show
from peelaudit.cli.progress import progress_on
from peelaudit.errors import ConfigError
from peelaudit.fleet.finding import suggesting_batch
from peelaudit.records import FaultKind
from peelaudit.reports.formats import Format
from peelaudit.settings import resolve
from peelaudit.settings.rules import Selector, parse_selector

__all__ = ["SelftestFlags", "run_selftest"]

_MOST_REDRAWS = 10_000


@dataclass(frozen=True, slots=True)
class SelftestFlags:
    """The command's own flags, as they were given."""

    faults: str | None
    layers: str | None
    redraws: str
    earlier: str | None
    references: bool

    def kinds(self) -> tuple[FaultKind, ...]:
        """The faults to plant. Raises ConfigError."""
        rolled = FaultKind.ROLLED_BACK
        if self.faults is None:
            return tuple(kind for kind in FaultKind if kind is not rolled or self.earlier is not None)
        names = [name.strip() for name in self.faults.split(",")]
        if names == ["none"]:
            return ()
        unknown = [name for name in names if name not in list(FaultKind)]
        if unknown:
            raise ConfigError(f"--faults has {unknown[0]!r}: expected {', '.join(FaultKind)}, or none alone")
        if rolled in names and self.earlier is None:
            raise ConfigError("--faults has rolled-back: that needs --earlier")
        return tuple(FaultKind(name) for name in dict.fromkeys(names))

    def draws(self) -> int:
        """How many draws of the text. Raises ConfigError."""
        digits = self.redraws.lstrip("0") or "0"
        if not self.redraws.isascii() or not self.redraws.isdigit() or int(digits[:9]) > _MOST_REDRAWS:
            raise ConfigError(f"--redraws is {self.redraws!r}: expected a number from 0 to {_MOST_REDRAWS}")
        return int(digits)

    def selector(self) -> Selector | None:
        """The layers to damage. Raises ConfigError."""
        return None if self.layers is None else parse_selector(self.layers)


def run_selftest(checkpoint: str, flags: Flags, own: SelftestFlags, *, format_name: str, quiet: bool) -> None:
    """`peelaudit selftest`."""
    problems: list[str] = []
    with collecting(problems):
        form = parse_format(format_name, allowed=(Format.TABLE, Format.JSON))
    with collecting(problems):
        config = resolve(checkpoint, flags, environ=os.environ, directory=Path.cwd())
    with collecting(problems):
        kinds = own.kinds()
    with collecting(problems):
        redraws = own.draws()
    with collecting(problems):
        layers = own.selector()
    if problems:
        raise ConfigError(*problems)
    with progress_on(sys.stderr, quiet=quiet) as progress, suggesting_batch(checkpoint):
        progress.stage("starting", 1)
        from peelaudit.auditing.selftest import Plan, selftest

        earlier = None if own.earlier is None else Path(own.earlier)
        plan = Plan(kinds, layers, redraws, earlier, references=own.references)
        result = selftest(config, plan, progress=progress)
    from peelaudit.reports.terminal import render_selftest

    show(result, type(result), form, render_selftest)
