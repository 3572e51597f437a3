"""`peelaudit batch` and `peelaudit status`, given the values of their flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peelaudit.calibration import check_given
from peelaudit.cli.gating import Flags, Gate, audit_flags, gate_flags, resolve_policy
from peelaudit.cli.guard import say
from peelaudit.cli.news import News
from peelaudit.cli.outcome import gated, noted, show_rows, tell_series, tell_stop, unaudited
from peelaudit.cli.output import Target, collecting, deliver, parse_format, parse_targets
from peelaudit.cli.planning import FleetFlags, Plan, make_batch, read_plan
from peelaudit.cli.progress import progress_on
from peelaudit.errors import ConfigError, NothingToAudit, PeelauditError, SeveralErrors
from peelaudit.fleet.batch import Batch, Summary, run_batch, settle
from peelaudit.fleet.finding import find_checkpoints
from peelaudit.fleet.results import Results
from peelaudit.fleet.status import read_status
from peelaudit.records import TaskRow, TaskState
from peelaudit.reports.formats import Format
from peelaudit.reports.trajectory import Trajectory
from peelaudit.reports.writing import check_writable
from peelaudit.settings import resolve
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.gate import GatePolicy

__all__ = ["Asked", "ask", "audit_fleet", "conclude", "show_status"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What `batch` or `watch` was asked for: the audits' settings, what is demanded of them, where it all goes."""

    form: Format
    settings: AuditConfig
    policy: GatePolicy
    targets: tuple[Target, ...]
    plan: Plan

    def gate(self, *, quiet: bool) -> Gate:
        """The gate, once all that can be known before the first audit is in order.

        Raises:
            PeelauditError: it isn't: the text, a rule, or a path to write to.
        """
        check_given(self.settings)
        gate = Gate(self.policy, quiet=quiet)
        gate.foresee(self.settings)
        for target in self.targets:
            check_writable(target.path)
        return gate


def ask(flags: Flags, own: FleetFlags, format_name: str, problems: list[str], *, command: str) -> Asked | None:
    """Read the flags; None if there are mistakes, which go to `problems`."""
    with collecting(problems):
        form = parse_format(format_name, allowed=(Format.TABLE, Format.JSON))
    with collecting(problems):
        settings = resolve("-", audit_flags(flags), environ=os.environ, directory=Path.cwd())
    with collecting(problems):
        policy = resolve_policy(gate_flags(flags))
    with collecting(problems):
        targets = parse_targets(own.outputs)
    plan = read_plan(own, problems, command=command)
    return None if problems else Asked(form, settings, policy, targets, plan)


def audit_fleet(checkpoints: Sequence[str], flags: Flags, own: FleetFlags, format_name: str, *, quiet: bool) -> None:
    """`peelaudit batch`."""
    problems: list[str] = []
    asked = ask(flags, own, format_name, problems, command="batch")
    with collecting(problems):
        found = find_checkpoints(checkpoints, stdin=sys.stdin.buffer)
    if asked is None or problems:
        raise ConfigError(*problems)
    if not found.checkpoints:
        raise NothingToAudit(f"no checkpoint found in {', '.join(checkpoints)}")
    gate = asked.gate(quiet=quiet)
    errors: list[PeelauditError] = [NothingToAudit(f"no checkpoint found in {path}") for path in found.empty]
    if errors and not quiet:
        say(f"warning: no checkpoint found in {', '.join(found.empty)}: the others are audited all the same")
    batch = make_batch(found.checkpoints, asked.settings, asked.plan, Results.create(Path(own.out)))
    rows, summary = _run(batch, quiet=quiet), Summary(batch.results)
    trajectory = summary.write()
    show_rows(noted(rows, trajectory), asked.form)
    conclude(asked, own, rows, summary, trajectory, gate, errors)


def conclude(
    asked: Asked,
    own: FleetFlags,
    rows: Sequence[TaskRow],
    summary: Summary,
    trajectory: Trajectory | str,
    gate: Gate,
    errors: list[PeelauditError],
) -> None:
    """Tell the gate and the training run, write the files, and raise what the command ends in, `errors` included."""
    reports = [summary.report(row) for row in rows if row.report is not None]
    checks = gated(gate, reports, errors) if asked.policy.demands else ()
    tell_series(trajectory, checks, asked.form)
    if own.stop_when is not None:
        tell_stop(trajectory, asked.form)
    deliver(reports, None, asked.targets, checks=checks, failures=unaudited(rows))
    for finish in (partial(settle, rows), gate.finish):
        try:
            finish()
        except PeelauditError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else SeveralErrors(*errors)


def show_status(results: str, format_name: str) -> None:
    """`peelaudit status`."""
    form = parse_format(format_name, allowed=(Format.TABLE, Format.JSON))
    directory = Results(Path(results))
    directory.check()
    show_rows(read_status(directory), form)


def _run(batch: Batch, *, quiet: bool) -> tuple[TaskRow, ...]:
    """The rows in the checkpoints' order, whichever ended first."""
    rows: dict[str, TaskRow] = {}
    terminal = sys.stderr is not None and sys.stderr.isatty()
    news = News(batch.checkpoints, terminal=terminal)
    with progress_on(sys.stderr, quiet=quiet or not terminal) as progress, closing(run_batch(batch)) as told:
        count = len(batch.checkpoints)
        progress.stage(f"audit {count} checkpoint{'' if count == 1 else 's'}", count)
        for row in told:
            if not quiet:
                news.tell(row)
            if row.state is not TaskState.RUNNING:
                rows[row.checkpoint] = row
                progress.advance()
    return tuple(rows[path] for path in batch.checkpoints)
