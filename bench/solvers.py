"""`make bench`: the solvers against each other on the fixtures, every staircase, in one run on one machine.

Low-bit networks have low-bit references: `adam` is then the straight-through one. Other checkpoints:
`python -m bench.solvers CKPT --data TEXT --schedules default`.

Times are CPU seconds, which other work on the machine moves little: of fitting the reference blocks alone (the peeling
recursion, no readout) and of the whole audit, with their ratios to `ridge`. Bounds are held-out, in nats/token, under
the network row's readout; beside each is its difference from `ridge`'s, negative where the solver's bound is tighter.
Errors are of the last block: how near the reference comes to h_L on *select*, as a share of its spread.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from unittest import mock

from peelaudit.auditing.run import audit_config
from peelaudit.method.references.peel import Peeled, Peeler
from peelaudit.method.references.schedules import PrefixNode
from peelaudit.progress import SILENT, Progress
from peelaudit.records import AuditReport, ScheduleResult
from peelaudit.reports.wording.words import bits_words
from peelaudit.settings.audit import AuditConfig, SolverKind
from tests.places import FIXTURES

DEFAULT = [FIXTURES / name for name in ("nanogpt/ckpt.pt", "llama", "llama-ternary")]
SOLVERS: tuple[SolverKind, ...] = get_args(SolverKind)


@dataclass(frozen=True, slots=True)
class Run:
    """One solver's audit, its seconds, and those of the peeling alone."""

    report: AuditReport
    seconds: float
    peel_seconds: float


class TimedPeeler(Peeler):
    """A peeler that knows how long it has fitted reference blocks: readouts between two of them aren't counted."""

    seconds = 0.0

    def peel(self, root: PrefixNode, *, done: int = 0, progress: Progress = SILENT) -> Iterator[Peeled]:
        nodes = super().peel(root, done=done, progress=progress)
        while True:
            start = time.process_time()
            node = next(nodes, None)
            TimedPeeler.seconds += time.process_time() - start
            if node is None:
                return
            yield node


def run(config: AuditConfig) -> Run:
    TimedPeeler.seconds = 0.0
    with mock.patch("peelaudit.auditing.measure.Peeler", TimedPeeler):
        start = time.process_time()
        report = audit_config(config)
    return Run(report, time.process_time() - start, TimedPeeler.seconds)


def peeled(report: AuditReport) -> list[ScheduleResult]:
    """The schedules whose blocks a solver fitted: all but `refined`."""
    return [schedule for schedule in report.schedules if schedule.blocks]


def bound(schedule: ScheduleResult) -> float:
    return schedule.held_out.bound.value


def compare(checkpoint: Path, **settings: Any) -> None:
    def config(solver: SolverKind) -> AuditConfig:
        return AuditConfig(checkpoint=str(checkpoint), solver=solver, effort="quick", **settings)

    run(config("ridge"))  # imports and caches
    runs = {solver: run(config(solver)) for solver in SOLVERS}
    base = runs["ridge"]
    report = base.report
    steps = settings["steps"]
    print(f"\n{checkpoint.name}: {report.checkpoint.layers} layers × {report.checkpoint.width}, ", end="")
    print(f"{report.data.fit.tokens} fit tokens, {len(peeled(report))} schedules, {steps} Adam steps a block")
    print(bits_words(report) or "float")
    heads = ("solver", "peeling", "ratio", "audit", "ratio", "YES-0", "YES*", "rival")
    print("{:12}{:>10}{:>8}{:>10}{:>8}{:>9}{:>9}{:>9}".format(*heads))
    for solver, timed in runs.items():
        figures = timed.report.network.held_out
        rival = min(bound(schedule) for schedule in peeled(timed.report) if schedule.name != "direct")
        chosen = min(peeled(timed.report), key=lambda schedule: schedule.select.bound.value)
        print(
            f"{solver:12}{timed.peel_seconds:9.1f}s{timed.peel_seconds / base.peel_seconds:8.2f}"
            f"{timed.seconds:9.1f}s{timed.seconds / base.seconds:8.2f}"
            f"{math.nan if figures.yes0 is None else figures.yes0.value:9.4f}{bound(chosen):9.4f}{rival:9.4f}"
        )
    print(f"\n{'bound of':14}" + "".join(f"{solver:>11}{'':9}" for solver in SOLVERS) + " error of the last block")
    for rows in zip(*(peeled(timed.report) for timed in runs.values()), strict=True):
        cells = "".join(f"{bound(row):11.4f}{bound(row) - bound(rows[0]):+9.4f}" for row in rows)
        print(f"{rows[0].name:14}{cells} " + " ".join(f"{row.blocks[-1].select_error:.4f}" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", type=Path, default=DEFAULT)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--schedules", default="all")
    arguments = parser.parse_args()
    for checkpoint in arguments.checkpoints:
        compare(
            checkpoint,
            data=tuple(arguments.data),
            tokens=arguments.tokens,
            steps=arguments.steps,
            schedules=tuple(arguments.schedules.split()),
        )


if __name__ == "__main__":
    main()
