"""What the commands do, given the values of their flags. The computing half is imported once it is needed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peelaudit.auditing.caching import Cache, Resumption
from peelaudit.cli.gating import Flags, Gate, audit_flags, gate_flags, resolve_policy
from peelaudit.cli.guard import say, write_out
from peelaudit.cli.output import collecting, deliver, paper, parse_format, parse_targets
from peelaudit.cli.planning import ClusterFlags
from peelaudit.cli.progress import progress_on
from peelaudit.cli.saved import report_paths
from peelaudit.errors import CheckpointError, ConfigError, PeelauditError, UnsupportedCheckpoint
from peelaudit.fleet.finding import suggesting_batch
from peelaudit.records import CheckpointInfo, GateCheck
from peelaudit.reports.formats import Format
from peelaudit.reports.writing import check_writable
from peelaudit.settings import resolve
from peelaudit.settings.audit import AuditConfig

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["convert_reports", "inspect_checkpoint", "print_schema", "run_audit", "show_cache"]


def run_audit(
    checkpoint: str,
    flags: Flags,
    *,
    format_name: str,
    outputs: Sequence[str],
    save_repairs: str | None,
    save_refined: str | None,
    quiet: bool,
    full: bool,
    resume: bool,
    cluster: ClusterFlags,
) -> None:
    """`peelaudit run`."""
    problems: list[str] = []
    machines = cluster.read(problems)
    cache: Cache | None = None
    with collecting(problems):
        cache = Cache.found(os.environ) if resume else None
    with collecting(problems):
        form = parse_format(format_name)
    with collecting(problems):
        targets = parse_targets(outputs)
    with collecting(problems):
        config = resolve(checkpoint, audit_flags(flags), environ=os.environ, directory=Path.cwd())
    with collecting(problems):
        policy = resolve_policy(gate_flags(flags))
    if save_repairs is not None and not problems and config.effort == "quick":
        problems.append("--save-repairs needs --effort default or thorough")
    if save_refined is not None and not problems and not config.runs_refined:
        problems.append("--save-refined needs the reference refined: name it in --schedules")
    if machines is not None and not problems and config.effort == "quick":
        problems.append("--engine ray needs --effort default or thorough: quick refines no layer alone")
    if problems:
        raise ConfigError(*problems)
    gate = Gate(policy, quiet=quiet)
    gate.foresee(config)
    for target in targets:
        check_writable(target.path)
    with (
        progress_on(sys.stderr, quiet=quiet) as progress,
        suggesting_batch(checkpoint),
        suggesting_batch(config.parent or checkpoint),
    ):
        progress.stage("starting", 1)
        from peelaudit.auditing.run import Save, audit_config

        folders = (None if given is None else Path(given) for given in (save_repairs, save_refined))
        resumption = Resumption(cache)
        report = audit_config(
            config,
            save=Save(*folders),
            resumption=resumption,
            opened=gate.opened,
            machines=machines,
            progress=progress,
        )
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
    deliver((report,), form, targets, checks=checks, full=full)
    resumption.end()
    if failure is not None:
        raise failure
    gate.finish()


def inspect_checkpoint(
    checkpoint: str, *, config: str | None, adapter: str | None, format_name: str, tensors: bool, prove: bool
) -> None:
    """`peelaudit inspect`."""
    problems: list[str] = []
    with collecting(problems):
        form = parse_format(format_name, allowed=(Format.TABLE, Format.JSON))
    with collecting(problems):
        settings = resolve(checkpoint, {"config": config, "adapter": adapter}, environ=os.environ, directory=Path.cwd())
    if problems:
        raise ConfigError(*problems)
    with _refusals() as refusals:
        _show_checkpoint(_looked_at(settings, refusals, tensors=tensors, prove=prove), form, tensors=tensors)


class _Refusals:
    """Says at once that a network can't be audited, and goes on to what else is known of it."""

    def __init__(self) -> None:
        self.some = False

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Around what refuses a network."""
        try:
            yield
        except UnsupportedCheckpoint as error:
            self.some = True
            say(f"error: {error}")

    def admit(self, path: str, family: str, values: Mapping[str, Any], skeleton: Module | None) -> None:
        from peelaudit.network import families

        with self.told():
            families.admit(path, family, values, skeleton)


@contextlib.contextmanager
def _refusals() -> Iterator[_Refusals]:
    """The exit code is the refusal's. Where nothing else comes to be known, the reason has been told."""
    refusals = _Refusals()
    try:
        yield refusals
    except CheckpointError:
        if not refusals.some:
            raise
    if refusals.some:
        raise SystemExit(UnsupportedCheckpoint.exit_code)


def _looked_at(settings: AuditConfig, refusals: _Refusals, *, tensors: bool, prove: bool) -> CheckpointInfo:
    """The checkpoint's facts; with `tensors` or `prove` its weights are read, for their grids and for the proof."""
    from peelaudit.checkpoints import open_checkpoint

    path = settings.checkpoint
    with (
        progress_on(sys.stderr, quiet=False) as progress,
        suggesting_batch(path),
        open_checkpoint(
            path, config=settings.config, adapter=settings.adapter, admit=refusals.admit, progress=progress
        ) as opened,
    ):
        for note in opened.notes:
            say(f"warning: {note}")
        if prove and not refusals.some:
            from peelaudit.network.decoder import prove_whole

            with refusals.told():
                prove_whole(opened, progress)
                say("the network that an audit puts together is transformers' own")
        if not tensors:
            return opened.info
        from peelaudit.network.weights import check_weights

        return check_weights(opened, progress).info()


def _show_checkpoint(info: CheckpointInfo, form: Format, *, tensors: bool) -> None:
    if form is Format.JSON:
        from peelaudit.records.json import checkpoint_json

        write_out(checkpoint_json(info, tensors=tensors))
        return
    from peelaudit.reports.terminal import render_checkpoint

    sheet = paper()
    text = render_checkpoint(info, tensors=tensors, width=sheet.width, colour=sheet.colour, encoding=sheet.encoding)
    write_out(text, encoding=sheet.encoding)


def convert_reports(paths: Sequence[str], *, format_name: str | None, outputs: Sequence[str], full: bool) -> None:
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

    deliver([read_report(path) for path in report_paths(paths)], form, targets, full=full)


def print_schema() -> None:
    """`peelaudit schema`."""
    from peelaudit.records.json import schema_json

    write_out(schema_json())


def show_cache(*, clear: bool) -> None:
    """`peelaudit cache`."""
    cache = Cache.found(os.environ)
    if cache is None:
        raise ConfigError("no place for a cache is known here: PEELAUDIT_CACHE names one")
    audits = cache.audits()
    size = f"{sum(audits.values()) / 1e6:,.1f} MB of {cache.most_bytes / 1e6:,.0f} MB"
    count = f"{len(audits)} unfinished audit{'' if len(audits) == 1 else 's'}"
    if clear:
        cache.clear()
    write_out(f"{cache.root}\n{count}, {size}{', removed' if clear else ''}\n")
