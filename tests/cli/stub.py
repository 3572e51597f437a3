"""The real command line over an audit that is canned: `python -m tests.cli.stub MODE ARGUMENTS…`."""

from __future__ import annotations

import dataclasses
import sys
import time
import types
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from peelaudit.cli import main
from peelaudit.errors import CalibrationError, ConfigError, NonFiniteResult, NothingToAudit, UnreadableCheckpoint
from peelaudit.records import AuditReport, Estimate
from peelaudit.settings.audit import AuditConfig
from tests.factories import make_report


class Save(NamedTuple):
    """Where the real one would write blocks."""

    repairs: Path | None = None
    refined: Path | None = None


HOSTILE = "no file \x1b[31m[bold]x"


def audit_config(
    mode: str, config: AuditConfig, *, progress: Any, save: Save, resumption: Any, opened: Any, machines: Any
) -> AuditReport:
    """What `mode` says."""
    if mode not in ("unreadable", "nothing"):
        opened(make_report(path=config.checkpoint).checkpoint)
    progress.stage("fit", 10)
    progress.advance(3)
    match mode:
        case "wait":
            sys.stderr.write("ready\n")
            sys.stderr.flush()
            time.sleep(30)
        case "slow":
            time.sleep(2.5)
            progress.stage("bound \x1b[31m[red]", 2)
            progress.advance()
        case "nan":
            report = make_report()
            baselines = dataclasses.replace(report.baselines, unigram=Estimate(float("nan"), 0.0, 0.0))
            return dataclasses.replace(report, baselines=baselines)
        case "nan gap":
            report = make_report()
            figures = dataclasses.replace(report.network.held_out, gap_layers=Estimate(float("nan"), 0.0, 0.0))
            return dataclasses.replace(report, network=dataclasses.replace(report.network, held_out=figures))
        case _ if mode in FAILURES:
            raise FAILURES[mode]
    return make_report(path=config.checkpoint)


FAILURES: dict[str, Exception] = {
    "unreadable": UnreadableCheckpoint(HOSTILE),
    "calibration": CalibrationError("too few tokens"),
    "non-finite": NonFiniteResult("layer 3 became NaN"),
    "nothing": NothingToAudit("no layer"),
    "config": ConfigError("schedules: no such family 'x'"),
    "memory": MemoryError(),
    "torch memory": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "disk": OSError(28, "No space left on device"),
    "bug": KeyError(HOSTILE),
    "exit": SystemExit(1),  # type: ignore[dict-item]
}


def stub(mode: str) -> types.ModuleType:
    """What stands in the place of `peelaudit.auditing.run`."""
    made = types.ModuleType("peelaudit.auditing.run")
    made.audit_config, made.Save = partial(audit_config, mode), Save  # type: ignore[attr-defined]
    return made


if __name__ == "__main__":
    sys.modules["peelaudit.auditing.run"] = stub(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
