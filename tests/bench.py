"""`make bench`: the solvers against each other on the fixtures, every staircase, in one run on one machine.

Times are of fitting the reference blocks alone (the peeling recursion, no readout) and of the whole audit, with their
ratios to `ridge`. Bounds are held-out, in nats/token, under the network row's readout; beside each is its difference
from `ridge`'s, negative where the solver's bound is tighter. Errors are of the last block: how near the reference comes
to h_L on *select*, as a share of its spread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from peelaudit.auditing import audit_config
from peelaudit.calibration import load_calibration
from peelaudit.checkpoints import open_checkpoint
from peelaudit.config import AuditConfig, SolverKind
from peelaudit.decoder import Decoder
from peelaudit.hidden_states import StateStore, TokenRows, trained_states
from peelaudit.peel import Peeler, SolverSettings
from peelaudit.records import AuditReport, ScheduleResult
from peelaudit.schedules import parse_schedules, prefix_tree

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SOLVERS: tuple[SolverKind, ...] = get_args(SolverKind)


@dataclass(frozen=True, slots=True)
class Run:
    """One solver's audit, its seconds, and those of the peeling alone."""

    report: AuditReport
    seconds: float
    peel_seconds: float


def peel_seconds(config: AuditConfig) -> float:
    """Seconds to fit every reference block of the schedules, shared prefixes once."""
    with open_checkpoint(Path(config.checkpoint)) as checkpoint:
        calibration = load_calibration(config, checkpoint.info)
        seq_len = calibration.info.seq_len
        decoder = Decoder(checkpoint, seq_len=seq_len, device=torch.device("cpu"), dtype=torch.float32)
        data, store = TokenRows.of(calibration), StateStore()
        states = trained_states(decoder, data.tokens, store)
        tree = prefix_tree(parse_schedules(config.schedules, decoder.n_layers).schedules)
        settings = SolverSettings(config.solver, config.init, config.steps, config.seed)
        start = time.perf_counter()
        for _ in Peeler(decoder, states, data.rows, settings, store).peel(tree):
            pass
        return time.perf_counter() - start


def run(config: AuditConfig) -> Run:
    peeling = peel_seconds(config)
    start = time.perf_counter()
    report = audit_config(config)
    return Run(report, time.perf_counter() - start, peeling)


def bound(schedule: ScheduleResult) -> float:
    return schedule.held_out.bound.value


def compare(checkpoint: Path, data: Sequence[str], tokens: int, steps: int) -> None:
    def config(solver: SolverKind) -> AuditConfig:
        return AuditConfig(
            checkpoint=str(checkpoint), data=tuple(data), solver=solver, schedules=("all",), tokens=tokens, steps=steps
        )

    peel_seconds(config("ridge"))  # imports and caches
    runs = {solver: run(config(solver)) for solver in SOLVERS}
    base = runs["ridge"]
    report = base.report
    print(f"\n{checkpoint.name}: {report.checkpoint.layers} layers × {report.checkpoint.width}, ", end="")
    print(f"{report.data.fit.tokens} fit tokens, {len(report.schedules)} schedules, {steps} Adam steps a block")
    heads = ("solver", "peeling", "ratio", "audit", "ratio", "YES-0", "YES*", "rival")
    print("{:12}{:>10}{:>8}{:>10}{:>8}{:>9}{:>9}{:>9}".format(*heads))
    for solver, timed in runs.items():
        figures = timed.report.network.held_out
        rival = min(bound(schedule) for schedule in timed.report.schedules if schedule.name != "direct")
        print(
            f"{solver:12}{timed.peel_seconds:9.1f}s{timed.peel_seconds / base.peel_seconds:8.2f}"
            f"{timed.seconds:9.1f}s{timed.seconds / base.seconds:8.2f}"
            f"{figures.yes0.value:9.4f}{figures.bound.value:9.4f}{rival:9.4f}"
        )
    print(f"\n{'bound of':14}" + "".join(f"{solver:>11}{'':9}" for solver in SOLVERS) + " error of the last block")
    for rows in zip(*(timed.report.schedules for timed in runs.values()), strict=True):
        cells = "".join(f"{bound(row):11.4f}{bound(row) - bound(rows[0]):+9.4f}" for row in rows)
        print(f"{rows[0].name:14}{cells} " + " ".join(f"{row.blocks[-1].select_error:.4f}" for row in rows))


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
