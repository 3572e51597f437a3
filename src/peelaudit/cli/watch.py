"""`peelaudit watch`, given the values of its flags."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

from peelaudit.cli.fleet import ask, conclude
from peelaudit.cli.gating import Flags
from peelaudit.cli.guard import say, write_out
from peelaudit.cli.outcome import noted, show_rows
from peelaudit.cli.planning import FleetFlags, make_batch
from peelaudit.errors import ConfigError
from peelaudit.escape import printable
from peelaudit.fleet.batch import Batch, Summary
from peelaudit.fleet.results import Results, place
from peelaudit.fleet.watching import Watch, run_watch
from peelaudit.records import TaskRow, TaskState
from peelaudit.reports.formats import Format
from peelaudit.reports.trajectory import Trajectory
from peelaudit.reports.wording.series import defect_words, watched_words

__all__ = ["watch_run"]


def watch_run(
    directory: str,
    flags: Flags,
    own: FleetFlags,
    *,
    settle: str,
    idle: str | None,
    format_name: str,
    quiet: bool,
) -> None:
    """`peelaudit watch`."""
    problems: list[str] = []
    asked = ask(flags, own, format_name, problems, command="watch")
    settle_s = _seconds("--settle", settle, problems)
    idle_s = None if idle is None else _seconds("--idle", idle, problems)
    if not Path(directory).is_dir():
        problems.append(f"{directory!r} is no directory: make it before the training run does, or name another")
    if asked is None or problems:
        raise ConfigError(*problems)
    gate = asked.gate(quiet=quiet)
    batch = make_batch((), asked.settings, asked.plan, Results.create(Path(own.out)))
    watch = Watch(directory=directory, settle_s=settle_s, idle_s=idle_s)
    told = _Told(batch, asked.form, quiet=quiet)
    with closing(run_watch(batch, watch)) as rows:
        for row in rows:
            told.tell(row)
            if own.stop_when is not None and not isinstance(told.trajectory, str) and told.trajectory.met is not None:
                break
    rows_told = tuple(told.rows.values())
    if asked.form is Format.JSON:
        show_rows(noted(rows_told, told.trajectory), asked.form)
    conclude(asked, own, rows_told, told.summary, told.trajectory, gate, [])


class _Told:
    """What is told while it goes on, a line as each audit ends, and what was.

    Args:
        batch: how audits are done.
        form: JSON leaves stdout for the end.
        quiet: nothing on stderr.
    """

    def __init__(self, batch: Batch, form: Format, *, quiet: bool) -> None:
        self.summary = Summary(batch.results)
        self.trajectory: Trajectory | str = self.summary.write()
        self._written = {(place(row.checkpoint), row.report) for row in batch.results.rows()}
        self.rows: dict[tuple[str, str | None], TaskRow] = {}
        self._form, self._quiet = form, quiet
        self._defects: set[object] = set()

    def tell(self, row: TaskRow) -> None:
        """A row has come."""
        if row.state is TaskState.RUNNING:
            if row.reason is not None:
                self._aside(f"waits: {row.checkpoint}: {row.reason}")
            return
        self.rows.pop((row.checkpoint, None), None)  # mended
        self.rows[row.checkpoint, row.report] = row
        if row.state is TaskState.FAILED:
            self._aside(f"failed: {row.checkpoint}: {row.reason}; it is tried again when it changes")
            return
        if (known := (place(row.checkpoint), row.report)) not in self._written:  # an earlier run's is in it already
            self.trajectory = self.summary.write()
            self._written.add(known)
        self._line(watched_words(row.checkpoint, self.summary.report(row)))
        if isinstance(self.trajectory, str):
            return
        for finding in self.trajectory.defects:
            if finding.key not in self._defects:
                self._defects.add(finding.key)
                self._line(f"series: {defect_words(finding)}")

    def _line(self, text: str) -> None:
        if self._form is Format.TABLE:
            write_out(f"{printable(text)}\n")
        else:
            self._aside(text)

    def _aside(self, text: str) -> None:
        if not self._quiet:
            say(text)


def _seconds(flag: str, text: str, problems: list[str]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        problems.append(f"{flag} is {text!r}: expected seconds, above 0")
    return value
