"""Where reports go: `-f` for stdout, `-o` for files."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from peelaudit.cli.guard import write_out
from peelaudit.errors import ConfigError, OutputError
from peelaudit.records import AuditReport, GateCheck, Unaudited
from peelaudit.reports.formats import Format, export
from peelaudit.reports.formats.content import Content
from peelaudit.reports.writing import write_whole

__all__ = [
    "Paper",
    "Target",
    "collecting",
    "deliver",
    "drawn",
    "paper",
    "parse_format",
    "parse_paths",
    "parse_targets",
    "show",
]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """A file to write."""

    format: Format
    path: Path


@dataclass(frozen=True, slots=True)
class Paper:
    """What stdout can show: `render_report`'s own keywords."""

    width: int
    colour: bool
    encoding: str


def paper() -> Paper:
    """The present stdout: the terminal's width and colours, or 80 columns (`COLUMNS`) without in a pipe."""
    terminal = sys.stdout.isatty()
    forced = bool(os.environ.get("FORCE_COLOR"))
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    width = shutil.get_terminal_size((80, 24)).columns if terminal or "COLUMNS" in os.environ else 80
    return Paper(width, forced or (terminal and not plain), sys.stdout.encoding or "utf-8")


def show(found: T, kind: Any, form: Format, render: Callable[..., str]) -> None:
    """What was found on stdout; see `drawn`. A table is as wide and as colourful as the terminal."""
    sheet = paper()
    write_out(drawn(found, kind, form, render, sheet), encoding=sheet.encoding if form is Format.TABLE else "utf-8")


def drawn(found: T, kind: Any, form: Format, render: Callable[..., str], sheet: Paper) -> str:
    """What was found, as text.

    Args:
        found: a record, or several.
        kind: its annotation.
        form: json, or a table.
        render: makes a table, given `sheet` as keywords.
        sheet: what it is drawn on.
    """
    if form is Format.JSON:
        from peelaudit.records.json import dump

        return dump(found, kind)
    return render(found, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)


def parse_format(text: str, *, allowed: Sequence[Format] = tuple(Format)) -> Format:
    """`--format`'s value. Raises ConfigError."""
    if text not in allowed:
        raise ConfigError(f"--format is {text!r}: expected {' | '.join(allowed)}")
    return Format(text)


def parse_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """`--output`'s values, each `PATH` or `FORMAT=PATH`.

    Raises:
        ConfigError: for every value without a format, without a path, or with another's path.
    """
    suffixes = {str(form): form.suffixes for form in Format}
    return tuple(Target(Format(name), path) for name, path in parse_paths(texts, suffixes))


def parse_paths(texts: Sequence[str], suffixes: Mapping[str, Sequence[str]]) -> tuple[tuple[str, Path], ...]:
    """The same where there are other formats: each value's format, by name, and path.

    Args:
        texts: the values.
        suffixes: the formats, and the file suffixes that stand for each.

    Raises:
        ConfigError: as `parse_targets`.
    """
    targets: dict[str, tuple[str, Path]] = {}
    problems: list[str] = []
    for text in texts:
        try:
            name, path = _parse_path(text, suffixes)
        except ConfigError as error:
            problems += error.problems
            continue
        key = str(path.absolute())
        if key in targets:
            problems.append(f"--output is {text!r}: that file is written already")
        targets[key] = name, path
    if problems:
        raise ConfigError(*problems)
    return tuple(targets.values())


def _parse_path(text: str, suffixes: Mapping[str, Sequence[str]]) -> tuple[str, Path]:
    prefix, equals, rest = text.partition("=")
    if equals and prefix in suffixes:
        if not rest:
            raise ConfigError(f"--output is {text!r}: expected a path after {prefix}=")
        return prefix, Path(rest)
    path = Path(text)
    for name, own in suffixes.items():
        if path.suffix.lower() in own:
            return name, path
    from difflib import get_close_matches

    close = get_close_matches(prefix, list(suffixes), n=1) if equals else []
    known = ", ".join(suffix for own in suffixes.values() for suffix in own)
    hint = f"did you mean {close[0]}=?" if close else f"expected a path that ends in {known}, or FORMAT=PATH"
    raise ConfigError(f"--output is {text!r}: {hint}")


@contextlib.contextmanager
def collecting(problems: list[str]) -> Iterator[None]:
    """Keep a ConfigError's problems, so that all mistakes are told at once, each of them once."""
    try:
        yield
    except ConfigError as error:
        problems += [problem for problem in error.problems if problem not in problems]


def deliver(
    reports: Sequence[AuditReport],
    form: Format | None,
    targets: Sequence[Target],
    *,
    checks: Sequence[GateCheck] = (),
    failures: Sequence[Unaudited] = (),
    full: bool = False,
) -> None:
    """Write the reports to every target and to stdout; one that fails doesn't keep it from the others.

    Args:
        reports: one or several.
        form: what stdout gets; None for nothing.
        targets: the files.
        checks: what a gate said of the reports.
        failures: the checkpoints of the same batch that have no report.
        full: whether the table on stdout shows all that a report holds; in a file it does.

    Raises:
        NonFiniteResult: a figure is NaN or infinite; nothing was written then.
        OutputError: for the targets that couldn't be written.
    """
    content = Content(tuple(reports), tuple(checks), tuple(failures))
    texts = [(target.path, export(reports, target.format, checks=checks, failures=failures)) for target in targets]
    sheet = paper() if form is Format.TABLE else Paper(width=80, colour=False, encoding="utf-8")
    shown = None if form is None else _shown(content, form, sheet, full=full)
    problems: list[str] = []
    for path, text in texts:
        try:
            write_whole(path, text)
        except OutputError as error:
            problems.append(str(error))
    if shown is not None:
        try:
            write_out(shown, encoding=sheet.encoding)
        except OutputError as error:
            problems.append(str(error))
    if problems:
        raise OutputError("; ".join(problems))


def _shown(content: Content, form: Format, sheet: Paper, *, full: bool) -> str:
    """What stdout gets. A table is as wide and as colourful as the terminal."""
    if form is not Format.TABLE:
        return export(content.reports, form, checks=content.checks, failures=content.failures)
    from peelaudit.reports.formats import table

    return table.export(content, full=full, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
