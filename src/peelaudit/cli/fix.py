"""What `fix` does. The computing half is imported once the flags are read."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peelaudit.cli.gating import Flags
from peelaudit.cli.guard import say
from peelaudit.cli.output import collecting, parse_format, show
from peelaudit.cli.progress import progress_on
from peelaudit.errors import ConfigError
from peelaudit.fleet.finding import suggesting_batch
from peelaudit.reports.formats import Format
from peelaudit.settings import resolve
from peelaudit.settings.rules import Selector, parse_selector

__all__ = ["FixFlags", "fix_checkpoint"]

Layers = Selector | Literal["named"]


@dataclass(frozen=True, slots=True)
class FixFlags:
    """The command's own flags, as they were given."""

    out: str
    layers: str | None
    head: bool
    untie: bool
    rank: str | None
    drop: str | None
    force: bool

    def chosen(self) -> Layers | None:
        """The layers to refine one by one. Raises ConfigError."""
        if self.layers is None:
            return None
        return "named" if self.layers == "named" else parse_selector(self.layers)

    def dropped(self) -> Selector | Literal["best"] | None:
        """The layers to leave out. Raises ConfigError."""
        if self.drop is None:
            return None
        return "best" if self.drop == "best" else parse_selector(self.drop)

    def lora(self) -> int | None:
        """The rank of an adapter. Raises ConfigError."""
        if self.rank is None:
            return None
        if not re.fullmatch(r"[1-9][0-9]{0,4}", self.rank):
            raise ConfigError(f"--lora is {self.rank!r}: expected a rank of 1 or more")
        return int(self.rank)

    def check(self) -> None:
        """Raise ConfigError where the flags contradict each other."""
        problems = []
        if self.untie and not self.head:
            problems.append("--untie is for --head: without it a tied head is left as it is")
        if self.rank is not None and (self.head or self.drop is not None):
            problems.append("--lora writes what blocks change: without --head and --drop")
        if self.drop is not None and self.layers is not None:
            problems.append("--drop refines all layers that are left: without --layers")
        if problems:
            raise ConfigError(*problems)


def fix_checkpoint(checkpoint: str, flags: Flags, own: FixFlags, *, format_name: str, quiet: bool) -> None:
    """`peelaudit fix`."""
    problems: list[str] = []
    layers: Layers | None = None
    dropped: Selector | Literal["best"] | None = None
    rank: int | None = None
    with collecting(problems):
        form = parse_format(format_name, allowed=(Format.TABLE, Format.JSON))
    with collecting(problems):
        config = resolve(checkpoint, flags, environ=os.environ, directory=Path.cwd())
    with collecting(problems):
        layers = own.chosen()
    with collecting(problems):
        dropped = own.dropped()
    with collecting(problems):
        rank = own.lora()
    with collecting(problems):
        own.check()
    if problems:
        raise ConfigError(*problems)
    with progress_on(sys.stderr, quiet=quiet) as progress, suggesting_batch(checkpoint):
        progress.stage("starting", 1)
        from peelaudit.auditing.fixing import Wish, fix

        wish = Wish(Path(own.out), layers, own.head, own.untie, rank, dropped, own.force)
        found = fix(config, wish, progress=progress)
    if not quiet:
        for note in found.notes:
            say(f"warning: {note}")
    from peelaudit.reports.terminal import render_fix

    show(found, type(found), form, render_fix)
