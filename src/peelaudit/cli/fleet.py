"""`peelaudit batch` and `peelaudit status`, given the values of their flags."""

from __future__ import annotations

import math
import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peelaudit.auditing.caching import Cache
from peelaudit.calibration import check_given
from peelaudit.cli.gating import Flags, Gate, audit_flags, gate_flags, resolve_policy
from peelaudit.cli.guard import say, write_out
from peelaudit.cli.news import News
from peelaudit.cli.output import collecting, deliver, paper, parse_format, parse_targets
from peelaudit.cli.progress import progress_on
from peelaudit.errors import ConfigError, NothingToAudit, PeelauditError, SeveralErrors
from peelaudit.fleet.batch import Batch, Engine, run_batch, settle, summarise
from peelaudit.fleet.finding import find_checkpoints
from peelaudit.fleet.processes import cores, cuda_devices
from peelaudit.fleet.results import Results
from peelaudit.fleet.sharding import Shard, parse_shard
from peelaudit.fleet.status import read_status
from peelaudit.records import AuditReport, GateCheck, TaskRow, TaskState, Unaudited
from peelaudit.records.json import read_report
from peelaudit.reports.formats import Format
from peelaudit.reports.trajectory import Trajectory
from peelaudit.reports.writing import check_writable
from peelaudit.settings import resolve
from peelaudit.settings.audit import AuditConfig

__all__ = ["BatchFlags", "audit_fleet", "show_status"]

_MOST = 100_000


@dataclass(frozen=True, slots=True)
class BatchFlags:
    """The flags of `batch` alone, as they were written."""

    out: str
    jobs: str | None
    threads: str | None
    retries: str
    shard: str | None
    engine: str
    gpus_per_task: str
    stop_when: str | None
    outputs: Sequence[str]
    resume: bool


def audit_fleet(checkpoints: Sequence[str], flags: Flags, own: BatchFlags, format_name: str, *, quiet: bool) -> None:
    """`peelaudit batch`."""
    problems: list[str] = []
    with collecting(problems):
        form = parse_format(format_name, allowed=(Format.TABLE, Format.JSON))
    with collecting(problems):
        settings = resolve("-", audit_flags(flags), environ=os.environ, directory=Path.cwd())
    with collecting(problems):
        policy = resolve_policy(gate_flags(flags))
    with collecting(problems):
        targets = parse_targets(own.outputs)
    plan = _plan(own, problems)
    with collecting(problems):
        found = find_checkpoints(checkpoints, stdin=sys.stdin.buffer)
    if problems:
        raise ConfigError(*problems)
    if not found.checkpoints:
        raise NothingToAudit(f"no checkpoint found in {', '.join(checkpoints)}")
    check_given(settings)
    gate = Gate(policy, quiet=quiet)
    gate.foresee(settings)
    for target in targets:
        check_writable(target.path)
    errors: list[PeelauditError] = [NothingToAudit(f"no checkpoint found in {path}") for path in found.empty]
    if errors and not quiet:
        say(f"warning: no checkpoint found in {', '.join(found.empty)}: the others are audited all the same")
    batch = _batch(found.checkpoints, settings, plan, Results.create(Path(own.out)))
    rows = _run(batch, quiet=quiet)
    reports = [read_report(batch.results.root / row.report) for row in rows if row.report is not None]
    checks = _gated(gate, reports, errors) if policy.demands else ()
    trajectory = summarise(batch.results)
    _deliver(rows, form)
    _tell(trajectory, checks, form)
    if own.stop_when is not None:
        _tell_stop(trajectory, form)
    deliver(reports, None, targets, checks=checks, failures=_unaudited(rows))
    for finish in (partial(settle, rows), gate.finish):
        try:
            finish()
        except PeelauditError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else SeveralErrors(*errors)


def _gated(gate: Gate, reports: Sequence[AuditReport], errors: list[PeelauditError]) -> tuple[GateCheck, ...]:
    """The checks of every report. One that can't be held against the policy doesn't keep the others from it."""
    checks: list[GateCheck] = []
    for report in reports:
        try:
            checks += gate.apply(report, report.checkpoint.path)
        except PeelauditError as error:
            errors.append(error)
    return tuple(checks)


def _unaudited(rows: Sequence[TaskRow]) -> tuple[Unaudited, ...]:
    return tuple(
        Unaudited(row.checkpoint, "AuditError", row.reason or "no reason is known")
        for row in rows
        if row.state is TaskState.FAILED
    )


def _tell(trajectory: Trajectory | str, checks: Sequence[GateCheck], form: Format) -> None:
    """The gate, and the training run if the reports are one's, below the table."""
    if form is not Format.TABLE:
        return
    from peelaudit.reports.terminal import render_gate, render_trajectory

    sheet = paper()
    if checks:
        text = render_gate(checks, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
        write_out(text, encoding=sheet.encoding)
    if not isinstance(trajectory, str) and len(trajectory.steps) > 1:
        text = render_trajectory(trajectory, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
        write_out(text, encoding=sheet.encoding)


def _tell_stop(trajectory: Trajectory | str, form: Format) -> None:
    """Which checkpoint already met the tightest bound: a line below the table, or on stderr beside JSON."""
    words = f"stop when green: {_stop_words(trajectory)}"
    if form is Format.TABLE:
        write_out(f"\n{textwrap.fill(words, paper().width)}\n")
    else:
        say(words)


def _stop_words(trajectory: Trajectory | str) -> str:
    if isinstance(trajectory, str):
        return f"these checkpoints are no training run: {trajectory}"
    names = {step: report.checkpoint.path for step, report in zip(trajectory.steps, trajectory.reports, strict=True)}
    if trajectory.met is None:
        return "no checkpoint has met the tightest bound of the run"
    words = f"step {trajectory.met} ({names[trajectory.met]}) already met the tightest bound of the run"
    if trajectory.met_so_far is not None and trajectory.met_so_far != trajectory.met:
        words += f"; going by the steps before it alone, step {trajectory.met_so_far} met the tightest bound so far"
    return words


def show_status(results: str, format_name: str) -> None:
    """`peelaudit status`."""
    form = parse_format(format_name, allowed=(Format.TABLE, Format.JSON))
    directory = Results(Path(results))
    directory.check()
    _deliver(read_status(directory), form)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The same, read."""

    engine: Engine
    shard: Shard
    jobs: int | None
    threads: int | None
    retries: int
    gpus_per_task: float
    cache: Cache | None


def _plan(own: BatchFlags, problems: list[str]) -> _Plan:
    """Every mistake goes to `problems`; the plan is of no use then."""
    engine, shard, cache = Engine.LOCAL, Shard(), None
    with collecting(problems):
        cache = Cache.found(os.environ) if own.resume else None
    with collecting(problems):
        engine = _engine(own.engine)
    with collecting(problems):
        shard = parse_shard(own.shard, os.environ)
    jobs, threads = (
        None if text is None else _whole(flag, text, 1, problems)
        for flag, text in (("--jobs", own.jobs), ("--threads", own.threads))
    )
    if os.name != "posix":
        problems.append("batch needs a POSIX system, whose file locks end with the process that holds them")
    if own.stop_when not in (None, "green"):
        problems.append(f"--stop-when is {own.stop_when!r}: expected green")
    gpus = _share(own.gpus_per_task, problems)
    if gpus and engine is Engine.LOCAL:
        problems.append("--gpus-per-task needs --engine ray: locally each audit has one device")
    return _Plan(engine, shard, jobs, threads, _whole("--retries", own.retries, 0, problems), gpus, cache)


def _engine(text: str) -> Engine:
    if text not in list(Engine):
        raise ConfigError(f"--engine is {text!r}: expected {' | '.join(Engine)}")
    return Engine(text)


def _whole(flag: str, text: str, least: int, problems: list[str]) -> int:
    if text.isdecimal() and text.isascii() and least <= int(text[:9]) <= _MOST and len(text) < 9:
        return int(text)
    problems.append(f"{flag} is {text!r}: expected a whole number from {least} to {_MOST}")
    return least


def _share(text: str, problems: list[str]) -> float:
    """A share of a GPU, or several whole ones, as Ray has it."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= _MOST or (share > 1 and share % 1):
        problems.append(f"--gpus-per-task is {text!r}: expected a share from 0 to 1, or a whole number")
    return share


def _batch(found: Sequence[str], settings: AuditConfig, plan: _Plan, results: Results) -> Batch:
    local = plan.engine is Engine.LOCAL
    devices = cuda_devices(os.environ) if local and settings.device in ("auto", "cuda") else ()
    jobs = plan.jobs or (len(devices) or 1 if local else None)
    told = os.environ.get("OMP_NUM_THREADS", "")
    chosen = int(told) if told.isdecimal() and int(told) > 0 else max(1, cores() // (jobs or 1)) if local else 1
    return Batch(
        checkpoints=tuple(plan.shard.of(found)),
        settings=settings,
        results=results,
        shard=plan.shard,
        engine=plan.engine,
        jobs=jobs,
        threads=plan.threads or chosen,
        retries=plan.retries,
        devices=devices,
        gpus_per_task=plan.gpus_per_task,
        cache=plan.cache,
    )


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


def _deliver(rows: Sequence[TaskRow], form: Format) -> None:
    """The rows on stdout."""
    if form is Format.JSON:
        from peelaudit.records.json import dump

        write_out(dump(tuple(rows), tuple[TaskRow, ...]))
        return
    from peelaudit.reports.terminal import render_tasks

    sheet = paper()
    text = render_tasks(rows, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
    write_out(text, encoding=sheet.encoding)
