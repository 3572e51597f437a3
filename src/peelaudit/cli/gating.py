"""What `check` and `compare` do, and `run` where there is a gate. Without torch."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peelaudit.cli.guard import say, write_out
from peelaudit.cli.output import collecting, paper, parse_format, show
from peelaudit.cli.saved import report_paths
from peelaudit.errors import ConfigError, GateFailed, PeelauditError, SeveralErrors, about
from peelaudit.reports.formats import Format
from peelaudit.settings import SETTINGS, resolve_gate
from peelaudit.settings.rules import PAIRED

if TYPE_CHECKING:
    from peelaudit.records import AuditReport, CheckpointInfo, GateCheck
    from peelaudit.reports.gate import GateResult
    from peelaudit.settings.audit import AuditConfig
    from peelaudit.settings.gate import GatePolicy

__all__ = ["Flags", "Gate", "audit_flags", "check_reports", "compare_reports", "gate_flags", "resolve_policy"]

Flags = Mapping[str, str | Sequence[str] | bool | None]
"""The flags of a command by name, those of an audit's settings and of a gate together."""

_FORMATS = (Format.TABLE, Format.JSON)


def audit_flags(flags: Flags) -> Flags:
    """Those of an audit's settings."""
    return {name: value for name, value in flags.items() if name in SETTINGS}


def gate_flags(flags: Flags) -> Flags:
    """Those of a gate."""
    return {name: value for name, value in flags.items() if name not in SETTINGS}


class Gate:
    """A policy with its baseline, applied to one report after another, and what to say in the end.

    Args:
        policy: what is demanded.
        quiet: say nothing but that the gate failed.

    Raises:
        ReportError: the baseline can't be read.
    """

    def __init__(self, policy: GatePolicy, *, quiet: bool) -> None:
        self.policy = policy
        self.results: list[tuple[str, GateResult]] = []
        self._quiet, self._today = quiet, datetime.datetime.now().astimezone().date()
        self._baseline: AuditReport | None = None
        if policy.fail_regression and policy.baseline is not None:
            from peelaudit.records.json import read_report

            self._baseline = read_report(policy.baseline)

    def foresee(self, config: AuditConfig) -> None:
        """Say now rather than after an hour's audit what can't be judged then.

        Raises:
            ConfigError: a rule is about layers' gaps, and no block is to be refined, or there is no parent.
            IncomparableReports: the baseline has other settings.
        """
        if config.effort == "quick" and any(rule.metric == "gap" for rule in self.policy.fail_over):
            raise ConfigError("a rule is about layer.gap: that needs --effort default or thorough")
        rules = (*self.policy.fail_over, *self.policy.fail_regression)
        if config.parent is None and any(rule.metric == PAIRED for rule in rules):
            raise ConfigError("a rule is about layer.parent_gap: that needs --parent")
        if self._baseline is None:
            return
        from peelaudit.reports.pairing import check_settings

        settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        known = {name: value for name, value in settings.items() if value not in (None, "auto")}
        check_settings(self._baseline, known)

    def opened(self, checkpoint: CheckpointInfo) -> None:
        """The same, of what is known once a checkpoint is opened.

        Raises:
            ConfigError: a rule is about layers that it hasn't.
        """
        from peelaudit.reports.gate import unmatched

        if problems := tuple(unmatched(self.policy, checkpoint.path, checkpoint.layers)):
            raise ConfigError(*problems)

    def apply(self, report: AuditReport, name: str) -> tuple[GateCheck, ...]:
        """The report's checks; `name` is what to call it in messages. Raises what `gate` does."""
        from peelaudit.reports.gate import gate

        result = gate(report, self.policy, today=self._today, baseline=self._baseline)
        self.results.append((name, result))
        return result.checks

    def finish(self) -> None:
        """Say what came of it.

        Raises:
            GateFailed: for one report that failed.
            SeveralErrors: for several.
        """
        if not self._quiet:
            self._warn()
        failed = [GateFailed(_failure(name, result)) for name, result in self.results if result.failed]
        if len(failed) > 1:
            raise SeveralErrors(*failed)
        if failed:
            raise failed[0]

    def _warn(self) -> None:
        from peelaudit.reports.gate import suppression_notes

        for note in suppression_notes(self.policy, [result for _, result in self.results], today=self._today):
            say(f"warning: {note}")
        for name, result in self.results:
            undecided = result.undecided()
            if undecided and self.policy.on_inconclusive == "warn":
                say(f"warning: gate inconclusive: {name}: {result.summary()}. {undecided[0]}")
            elif not result.failed and result.checks:
                say(f"gate passed: {name}: {result.summary()}")


def _failure(name: str, result: GateResult) -> str:
    return f"gate failed: {name}: {result.summary()}. {result.checks[0].reason}"


def check_reports(paths: Sequence[str], flags: Flags, *, format_name: str, quiet: bool) -> None:
    """`peelaudit check`."""
    problems: list[str] = []
    with collecting(problems):
        form = parse_format(format_name, allowed=_FORMATS)
    with collecting(problems):
        policy = resolve_policy(flags)
        if not policy.demands:
            problems.append("no rule to check by: give --fail-over, --fail-on or --fail-regression, or a table `gate`")
    if problems:
        raise ConfigError(*problems)
    gate = Gate(policy, quiet=quiet)
    errors: list[PeelauditError] = []
    for path in report_paths(paths, quiet=quiet):
        try:
            _check(path, gate)
        except PeelauditError as error:
            errors.append(error)
    _show_checks(gate.results, form)
    try:
        gate.finish()
    except PeelauditError as error:
        errors.append(error)
    if errors:
        raise SeveralErrors(*errors)


def _check(path: str, gate: Gate) -> None:
    from peelaudit.records.json import read_report

    report = read_report(path)
    with about(path):
        gate.apply(report, path)


def _show_checks(results: Sequence[tuple[str, GateResult]], form: Format) -> None:
    if form is Format.JSON:
        from peelaudit.records import GateCheck
        from peelaudit.records.json import dump

        write_out(dump(tuple(check for _, result in results for check in result.checks), tuple[GateCheck, ...]))
        return
    from peelaudit.reports.terminal import render_gate

    sheet = paper()
    for path, result in results:
        title = f"The gate on {path}, the report of {result.checkpoint}"
        text = render_gate(result.checks, title=title, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
        write_out(text, encoding=sheet.encoding)


def compare_reports(
    base_path: str, new_path: str, flags: Flags, *, tolerance: str | None, format_name: str, quiet: bool
) -> None:
    """`peelaudit compare`."""
    from peelaudit.records.json import read_report
    from peelaudit.reports.compare import TOLERANCE, compare

    problems: list[str] = []
    with collecting(problems):
        form = parse_format(format_name, allowed=_FORMATS)
    with collecting(problems):
        within = TOLERANCE if tolerance is None else _tolerance(tolerance)
    with collecting(problems):
        # What the file demands of a report by itself is for `run` and `check`.
        policy = dataclasses.replace(_resolve({**flags, "baseline": base_path}), fail_over=(), fail_on=())
    if problems:
        raise ConfigError(*problems)
    base, new = read_report(base_path), read_report(new_path)
    comparison = compare(base, new, tolerance=within)
    gate = Gate(policy, quiet=quiet)
    if policy.demands:
        comparison = dataclasses.replace(comparison, checks=gate.apply(new, new_path))
    if not quiet:
        for warning in comparison.warnings:
            say(f"warning: {warning}")
    from peelaudit.reports.terminal import render_comparison

    show(comparison, type(comparison), form, render_comparison)
    gate.finish()


def resolve_policy(flags: Flags) -> GatePolicy:
    """What flags, file and environment demand of a report.

    Raises:
        ConfigError: for every mistake, a baseline that nothing would be compared with included.
    """
    policy = _resolve(flags)
    if policy.baseline is not None and not policy.fail_regression:
        raise ConfigError("a baseline is given, but no fail-regression: nothing would be compared with it")
    return policy


def _resolve(flags: Flags) -> GatePolicy:
    return resolve_gate(flags, environ=os.environ, directory=Path.cwd())


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f"--tolerance is {text!r}: expected nats/token, 0 or more")
    return value
