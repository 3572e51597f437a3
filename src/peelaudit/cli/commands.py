"""What the commands do, given the values of their flags. The computing half is imported once it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from peelaudit.cli.gating import Flags, Gate, audit_flags, gate_flags, resolve_policy
from peelaudit.cli.guard import say, write_out
from peelaudit.cli.output import collecting, deliver, paper, parse_format, parse_targets
from peelaudit.cli.progress import progress_on
from peelaudit.errors import ConfigError, PeelauditError
from peelaudit.fleet.finding import suggesting_batch
from peelaudit.records import GateCheck
from peelaudit.reports.formats import Format
from peelaudit.reports.writing import check_writable
from peelaudit.settings import resolve

__all__ = ["convert_reports", "inspect_checkpoint", "print_schema", "run_audit"]


def run_audit(
    checkpoint: str,
    flags: Flags,
    *,
    format_name: str,
    outputs: Sequence[str],
    save_repairs: str | None,
    quiet: bool,
) -> None:
    """`peelaudit run`."""
    problems: list[str] = []
    with collecting(problems):
        form = parse_format(format_name)
    with collecting(problems):
        targets = parse_targets(outputs)
    with collecting(problems):
        config = resolve(checkpoint, audit_flags(flags), environ=os.environ, directory=Path.cwd())
    with collecting(problems):
        policy = resolve_policy(gate_flags(flags))
    if save_repairs is not None and not problems and config.repair == "off":
        problems.append("--save-repairs needs --repair cheap or thorough")
    if problems:
        raise ConfigError(*problems)
    gate = Gate(policy, quiet=quiet)
    gate.foresee(config)
    for target in targets:
        check_writable(target.path)
    with progress_on(sys.stderr, quiet=quiet) as progress, suggesting_batch(checkpoint):
        progress.stage("starting", 1)
        from peelaudit.auditing.run import audit_config

        folder = None if save_repairs is None else Path(save_repairs)
        report = audit_config(config, save_repairs=folder, progress=progress)
    if form is not Format.TABLE and not quiet:
        for warning in report.warnings:
            say(f"warning: {warning}")
    failure: PeelauditError | None = None
    checks: tuple[GateCheck, ...] = ()
    if policy.demands:
        try:
            checks = gate.apply(report, config.checkpoint)
        except PeelauditError as error:
            failure = error  # an hour's audit is delivered all the same
    deliver((report,), form, targets, checks=checks)
    if failure is not None:
        raise failure
    gate.finish()


def inspect_checkpoint(checkpoint: str, *, config: str | None, format_name: str, tensors: bool) -> None:
    """`peelaudit inspect`."""
    problems: list[str] = []
    with collecting(problems):
        form = parse_format(format_name, allowed=(Format.TABLE, Format.JSON))
    with collecting(problems):
        settings = resolve(checkpoint, {"config": config}, environ=os.environ, directory=Path.cwd())
    if problems:
        raise ConfigError(*problems)
    from peelaudit.checkpoints import open_checkpoint

    with (
        progress_on(sys.stderr, quiet=False) as progress,
        suggesting_batch(checkpoint),
        open_checkpoint(Path(checkpoint), config=settings.config, progress=progress) as opened,
    ):
        info = opened.info
        if tensors:
            from peelaudit.network.weights import check_weights

            info = check_weights(opened, progress).info()
    if form is Format.JSON:
        from peelaudit.records.json import checkpoint_json

        write_out(checkpoint_json(info, tensors=tensors))
        return
    from peelaudit.reports.terminal import render_checkpoint

    sheet = paper()
    text = render_checkpoint(info, tensors=tensors, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
    write_out(text, encoding=sheet.encoding)


def convert_reports(paths: Sequence[str], *, format_name: str | None, outputs: Sequence[str]) -> None:
    """`peelaudit convert`."""
    problems: list[str] = []
    with collecting(problems):
        form = None if format_name is None and outputs else parse_format(format_name or Format.TABLE)
    with collecting(problems):
        targets = parse_targets(outputs)
    if problems:
        raise ConfigError(*problems)
    for target in targets:
        check_writable(target.path)
    from peelaudit.records.json import read_report

    deliver([read_report(path) for path in paths], form, targets)


def print_schema() -> None:
    """`peelaudit schema`."""
    from peelaudit.records.json import schema_json

    write_out(schema_json())
