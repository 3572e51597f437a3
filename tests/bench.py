"""`make bench`: the solvers against each other on the fixtures, every staircase, in one run on one machine.

Times are ratios to `ridge`, whole audit and reference blocks alone. Bounds are held-out, in nats/token, under the
network row's readout; beside each is its difference from `ridge`'s, negative where the solver's bound is tighter.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import peelaudit
from peelaudit.config import SolverKind
from peelaudit.records import AuditReport, ScheduleResult

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SOLVERS: tuple[SolverKind, ...] = get_args(SolverKind)
BASE: SolverKind = "ridge"


@dataclass(frozen=True, slots=True)
class Run:
    """One audit and the seconds that it took."""

    report: AuditReport
    seconds: float

    @property
    def block_seconds(self) -> float:
        """Of fitting the reference blocks."""
        return dict(self.report.timings)["reference blocks"]


def run(checkpoint: Path, solver: SolverKind, data: Sequence[str], tokens: int, steps: int) -> Run:
    start = time.perf_counter()
    report = peelaudit.audit(checkpoint, data, solver=solver, schedules=("all",), tokens=tokens, steps=steps)
    return Run(report, time.perf_counter() - start)


def bound(schedule: ScheduleResult) -> float:
    return schedule.held_out.bound.value


def last_error(schedule: ScheduleResult) -> float:
    """The normalised squared error of the last block on *select*: how near the reference's state comes to h_L."""
    return schedule.blocks[-1].select_error


def compare(checkpoint: Path, data: Sequence[str], tokens: int, steps: int) -> None:
    peelaudit.audit(checkpoint, data, schedules=("final",), tokens=2048, resamples=100)  # imports, caches
    runs = {solver: run(checkpoint, solver, data, tokens, steps) for solver in SOLVERS}
    base = runs[BASE]
    print(f"\n{checkpoint.name}: {base.report.checkpoint.layers} layers × {base.report.checkpoint.width}, ", end="")
    print(
        f"{base.report.data.fit.tokens} fit tokens, {len(base.report.schedules)} schedules, {steps} Adam steps a block"
    )
    print(
        f"{'solver':12}{'audit':>9}{'ratio':>8}{'blocks':>10}{'ratio':>8}{'YES-0':>9}{'YES*':>9}{'without direct':>16}"
    )
    for solver, timed in runs.items():
        others = min(bound(s) for s in timed.report.schedules if s.name != "direct")
        figures = timed.report.network.held_out
        print(
            f"{solver:12}{timed.seconds:8.1f}s{timed.seconds / base.seconds:8.2f}"
            f"{timed.block_seconds:9.1f}s{timed.block_seconds / base.block_seconds:8.2f}"
            f"{figures.yes0.value:9.4f}{figures.bound.value:9.4f}{others:16.4f}"
        )
    print(f"\n{'bound of':16}" + "".join(f"{solver:>12}{'':9}" for solver in SOLVERS) + "  error of the last block")
    for rows in zip(*(timed.report.schedules for timed in runs.values()), strict=True):
        cells = "".join(f"{bound(row):12.4f}{bound(row) - bound(rows[0]):+9.4f}" for row in rows)
        print(f"{rows[0].name:16}{cells}  " + " ".join(f"{last_error(row):.4f}" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", type=Path, default=[FIXTURES / "nanogpt/ckpt.pt", FIXTURES / "llama"])
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args()
    for checkpoint in arguments.checkpoints:
        compare(checkpoint, arguments.data, arguments.tokens, arguments.steps)


if __name__ == "__main__":
    main()
