"""What `batch`, `watch` and `status` tell in the end: the rows, the gate, the training run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from peelaudit.cli.gating import Gate
from peelaudit.cli.guard import say, write_out
from peelaudit.cli.output import paper, show
from peelaudit.errors import PeelauditError
from peelaudit.records import AuditReport, GateCheck, TaskRow, TaskState, Unaudited
from peelaudit.reports.formats import Format
from peelaudit.reports.trajectory import Trajectory
from peelaudit.reports.wording.series import defect_words
from peelaudit.reports.wording.text import count

__all__ = ["gated", "noted", "show_rows", "stop_words", "tell_series", "tell_stop", "unaudited"]


def show_rows(rows: Sequence[TaskRow], form: Format) -> None:
    """The rows on stdout."""
    from peelaudit.reports.terminal import render_tasks

    show(tuple(rows), tuple[TaskRow, ...], form, render_tasks)


def noted(rows: Sequence[TaskRow], trajectory: Trajectory | str) -> tuple[TaskRow, ...]:
    """The rows with what is wrong with them as steps of the run."""
    defects = () if isinstance(trajectory, str) else trajectory.defects
    return tuple(
        replace(row, notes=tuple(defect_words(each) for each in defects if row.checkpoint in each.checkpoints))
        for row in rows
    )


def gated(gate: Gate, reports: Sequence[AuditReport], errors: list[PeelauditError]) -> tuple[GateCheck, ...]:
    """The checks of every report. One that can't be held against the policy doesn't keep the others from it."""
    checks: list[GateCheck] = []
    for report in reports:
        try:
            checks += gate.apply(report, report.checkpoint.path)
        except PeelauditError as error:
            errors.append(error)
    return tuple(checks)


def unaudited(rows: Sequence[TaskRow]) -> tuple[Unaudited, ...]:
    """The checkpoints without a report, for the formats that name them."""
    return tuple(
        Unaudited(row.checkpoint, "AuditError", row.reason or "no reason is known")
        for row in rows
        if row.state is TaskState.FAILED
    )


def tell_series(trajectory: Trajectory | str, checks: Sequence[GateCheck], form: Format) -> None:
    """The gate, and the training run if the reports are one's, below the table."""
    if form is not Format.TABLE:
        return
    from peelaudit.reports.terminal import render_gate, render_trajectory

    sheet = paper()
    if checks:
        text = render_gate(checks, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
        write_out(text, encoding=sheet.encoding)
    if not isinstance(trajectory, str) and (len(trajectory.steps) > 1 or trajectory.defects):
        text = render_trajectory(trajectory, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
        write_out(text, encoding=sheet.encoding)


def tell_stop(trajectory: Trajectory | str, form: Format) -> None:
    """Which checkpoint already met the tightest bound: a line below the table, or on stderr beside JSON."""
    words = f"stop when green: {stop_words(trajectory)}"
    if form is Format.TABLE:
        write_out(f"\n{textwrap.fill(words, paper().width)}\n")
    else:
        say(words)


def stop_words(trajectory: Trajectory | str) -> str:
    """Which checkpoint already met the tightest bound, or why none is told."""
    if isinstance(trajectory, str):
        return f"these checkpoints are no training run: {trajectory}"
    names = {step: report.checkpoint.path for step, report in zip(trajectory.steps, trajectory.reports, strict=True)}
    if trajectory.met is None:
        return "no checkpoint has met the tightest bound of the run"
    words = f"step {count(trajectory.met)} ({names[trajectory.met]}) already met the tightest bound of the run"
    if trajectory.met_so_far is not None and trajectory.met_so_far != trajectory.met:
        words += (
            f"; going by the steps before it alone, step {count(trajectory.met_so_far)} met the tightest bound so far"
        )
    return words
