"""What `fix` does. The computing half is imported once the flags are read."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peelaudit.cli.gating import Flags
from peelaudit.cli.guard import say, write_out
from peelaudit.cli.output import collecting, paper, parse_format
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
    force: bool

    def chosen(self) -> Layers | None:
        """The layers to refine one by one. Raises ConfigError."""
        if self.layers is None:
            return None
        return "named" if self.layers == "named" else parse_selector(self.layers)

    def check(self) -> None:
        """Raise ConfigError where the flags contradict each other."""
        if self.untie and not self.head:
            raise ConfigError("--untie is for --head: without it a tied head is left as it is")


def fix_checkpoint(checkpoint: str, flags: Flags, own: FixFlags, *, format_name: str, quiet: bool) -> None:
    """`peelaudit fix`."""
    problems: list[str] = []
    layers: Layers | None = None
    with collecting(problems):
        form = parse_format(format_name, allowed=(Format.TABLE, Format.JSON))
    with collecting(problems):
        config = resolve(checkpoint, flags, environ=os.environ, directory=Path.cwd())
    with collecting(problems):
        layers = own.chosen()
    with collecting(problems):
        own.check()
    if problems:
        raise ConfigError(*problems)
    with progress_on(sys.stderr, quiet=quiet) as progress, suggesting_batch(checkpoint):
        progress.stage("starting", 1)
        from peelaudit.auditing.fixing import Wish, fix

        wish = Wish(Path(own.out), layers, head=own.head, untie=own.untie, force=own.force)
        found = fix(config, wish, progress=progress)
    if form is Format.JSON:
        from peelaudit.records import Fix
        from peelaudit.records.json import dump

        write_out(dump(found, Fix))
        return
    if not quiet:
        for note in found.notes:
            say(f"warning: {note}")
    from peelaudit.reports.terminal import render_fix

    sheet = paper()
    write_out(
        render_fix(found, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding), encoding=sheet.encoding
    )
