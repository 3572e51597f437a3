"""What an audit costs by stage, in forward passes and CPU seconds, beside one bare forward pass of transformers.

    python -m bench.cost [CHECKPOINT …] [--data TEXT] [--tokens N] [--effort quick|default|thorough] [--bits SET]

The bare pass is transformers' own network of that shape on the same tokens, with the loss, in the same process, without
gradients. Passes are what the audit computed, in forward passes of the network over all its tokens, as its report
tells them; a derivative takes longer than its share of them.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from peelaudit.auditing.prepare import prepared
from peelaudit.auditing.run import audit_config
from peelaudit.method.linalg.precision import exact_float32
from peelaudit.network.states import TokenRows
from peelaudit.settings.audit import AuditConfig

FIXTURES = ("fixtures/nanogpt/ckpt.pt", "fixtures/llama", "fixtures/llama-ternary")
BATCH = 8
"""Sequences at once of the bare pass."""


@dataclass
class CpuSeconds:
    """Progress that keeps the CPU seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    _name: str = ""
    _start: float = 0.0

    def stage(self, name: str, total: int) -> None:
        """Another one begins."""
        self.end()
        self._name, self._start = name, time.process_time()

    def advance(self, steps: int = 1) -> None:
        """Nothing to keep."""

    def end(self) -> None:
        """The last one ends."""
        if self._name:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + time.process_time() - self._start
        self._name = ""


@torch.no_grad()
def bare(config: AuditConfig) -> float:
    """CPU seconds of one forward pass of transformers' network over the calibration tokens, its loss with it."""
    from transformers import AutoModelForCausalLM

    with prepared(config) as audit:
        rows = TokenRows.of(audit.calibration).tokens
        model = AutoModelForCausalLM.from_config(audit.checkpoint.config, dtype=torch.float32).eval()
    model(rows[:1])  # what is made once
    start = time.process_time()
    for part in rows.split(BATCH):
        model(part, labels=part)
    return time.process_time() - start


def lines(config: AuditConfig) -> Iterator[str]:
    """The table of one audit."""
    with exact_float32():
        one = bare(config)
    progress = CpuSeconds()
    start = time.process_time()
    report = audit_config(config, progress=progress)
    whole = time.process_time() - start
    progress.end()
    passes = dict(report.passes)
    yield f"\n{config.checkpoint}, {config.effort}: {report.headline}\n"
    yield "| stage | passes | CPU s |"
    yield "|---|---:|---:|"
    for name, seconds in progress.seconds.items():
        if seconds > 0.01 * whole:
            yield (
                f"| {name} | {passes[name]:.1f} | {seconds:.1f} |"
                if name in passes
                else f"| {name} | | {seconds:.1f} |"
            )
    yield f"| all | {sum(passes.values()):.1f} | {whole:.1f} |"
    yield f"\none bare forward pass: {one:.2f} CPU s; the audit takes {whole / one:.0f} times that"
    yield f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", default=FIXTURES)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--effort", choices=("quick", "default", "thorough"), default="default")
    parser.add_argument("--bits", default="auto")
    options = parser.parse_args()
    for checkpoint in options.checkpoints:
        config = AuditConfig(
            checkpoint=checkpoint,
            data=tuple(options.data),
            tokens=options.tokens,
            effort=options.effort,
            bits=options.bits,
        )
        for line in lines(config):
            print(line, flush=True)


if __name__ == "__main__":
    main()
