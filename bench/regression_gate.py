"""Does the regression gate catch one layer rolled back to an earlier step, name it, and leave a healthy twin alone?

`make regression-gate`, or `python -m bench.regression_gate [--draws N] [--catch-draws N]`; some minutes on two cores.

The base is fixtures/nanogpt/ckpt.pt (step 2400). Each audit is on a re-draw of the calibration text: the seed decides
which documents are drawn, how they are split, and the bootstrap. On every re-draw the base is audited as well. The
rules look at the trained loss, which is the same whatever the references and readouts are, so the cheapest are taken.

twin            every weight times 1 + 0.001 x a standard normal: as good as the base, no better, no worse
rolled back     layer k has the weights of an earlier step, all else the base's: each layer, each step in turn
rolled in twin  the same in a twin, where every layer's weights differ and only the losses can tell which it was

A false alarm is a twin that fails the gate. A catch is a rolled-back network that fails; it is named if the comparison
says that the change begins at that layer.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import peelaudit
from peelaudit.records import AuditReport, Outcome
from peelaudit.reports.compare import compare
from peelaudit.reports.gate import gate
from peelaudit.settings.gate import GatePolicy
from peelaudit.settings.rules import parse_rule
from tests.places import NANOGPT

LAYERS = (1, 2, 3, 4)
STEPS = (1200, 600, 250, 100, 0)
RULES = ("trained_loss=0", "trained_loss=0.001", "trained_loss=1%")
NAMING_RULE = RULES[1]
NOISE = 1e-3
TOKENS = 6144

State = Mapping[str, torch.Tensor]
Saved = dict[str, Any]


def load(name: str) -> Saved:
    saved: Saved = torch.load(NANOGPT / name, weights_only=True)
    return saved


def twin(state: State, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    noisy = {name: w * (1 + NOISE * torch.randn(w.shape, generator=generator)) for name, w in state.items()}
    noisy["lm_head.weight"] = noisy["transformer.wte.weight"]  # tied
    return noisy


def rolled_back(state: State, layer: int, step: int) -> State:
    earlier = load(f"ckpt-{step:06d}.pt")["model"]
    prefix = f"transformer.h.{layer - 1}."
    return {name: earlier[name] if name.startswith(prefix) else w for name, w in state.items()}


class Bench:
    """The healthy checkpoint, and audits on re-draws."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ckpt.pt"
        self._saved = load("ckpt.pt")
        self.healthy: State = self._saved["model"]
        self.base = cache(lambda seed: self.audit(self.healthy, seed))

    def audit(self, state: State, seed: int) -> AuditReport:
        torch.save({**self._saved, "model": state}, self._path)
        return peelaudit.audit(
            self._path,
            NANOGPT / "calibration.txt",
            tokenizer=str(NANOGPT / "meta.pkl"),
            tokens=TOKENS,
            effort="quick",
            schedules=("final",),
            readout="own",
            depth_readout="own",
            resamples=1000,
            seed=seed,
        )

    def judge(self, state: State, seed: int) -> tuple[dict[str, Outcome], int | None]:
        """What the gate says by each rule, and the layer that the comparison names."""
        base, new = self.base(seed), self.audit(state, seed)
        policy = GatePolicy(fail_regression=tuple(parse_rule(rule, regression=True) for rule in RULES), baseline="-")
        result = gate(new, policy, baseline=base, today=datetime.date.today())
        outcomes = {check.rule.removeprefix("regression "): check.outcome for check in result.checks}
        return outcomes, compare(base, new).origin.layer


def false_alarms(bench: Bench, draws: int) -> Iterator[str]:
    failed = Counter[str]()
    for seed in range(draws):
        outcomes, _ = bench.judge(twin(bench.healthy, seed), seed)
        failed.update(rule for rule, outcome in outcomes.items() if outcome is Outcome.FAILED)
    for rule in RULES:
        yield f"twin, {rule}: {failed[rule]} of {draws} re-draws fail"


def catches(bench: Bench, draws: int, *, in_twin: bool) -> Iterator[str]:
    total = draws * len(LAYERS)
    for step in STEPS:
        caught, named = Counter[str](), 0
        for layer in LAYERS:
            for seed in range(draws):
                state = twin(bench.healthy, seed) if in_twin else bench.healthy
                outcomes, begins = bench.judge(rolled_back(state, layer, step), seed)
                caught.update(rule for rule, outcome in outcomes.items() if outcome is Outcome.FAILED)
                named += begins == layer
        counts = ", ".join(f"{rule} {caught[rule]}" for rule in RULES)
        yield f"step {step:>4}, of {total} (4 layers x {draws} re-draws): caught by {counts}; right layer named {named}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--catch-draws", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        print("One layer rolled back", flush=True)
        for line in catches(bench, options.catch_draws, in_twin=False):
            print(" ", line, flush=True)
        print("One layer rolled back in a twin", flush=True)
        for line in catches(bench, options.catch_draws, in_twin=True):
            print(" ", line, flush=True)
        print("Healthy twins", flush=True)
        for line in false_alarms(bench, options.draws):
            print(" ", line, flush=True)


if __name__ == "__main__":
    main()
