"""The refitted head against one that Adam trains, with all its rows free, on the same states of the last block.

    python -m bench.heads [CHECKPOINT ...] [--data TEXT] [--tokens N]

Adam starts from the model's own head at the temperature that it wants, has three rates relative to the root mean square
of its weights (0.001, 0.003, 0.01), and ends where two epochs in a row gain nothing on *select*; the best of all looks
there is judged on *held-out*. Losses are nats/token; seconds are CPU time, Adam's of all three rates. `more` is what
the refitted head gains beyond Adam's, with its 95 % interval by cluster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from peelaudit.auditing.feeding import fed
from peelaudit.auditing.prepare import held_decoder, prepared
from peelaudit.method.linalg.precision import exact_float32
from peelaudit.method.readouts.factory import ReadoutFactory
from peelaudit.method.readouts.readout import Readout
from peelaudit.method.statistics.bootstrap import ClusterBootstrap
from peelaudit.network.states import NO_TARGET, StateStore, TokenRows, trained_states
from peelaudit.network.weights import check_weights
from peelaudit.reports.wording.text import interval, number, signed
from peelaudit.settings.audit import AuditConfig

FIXTURES = [
    *(f"fixtures/nanogpt/ckpt-{step:06}.pt" for step in (100, 250, 600)),
    "fixtures/nanogpt/ckpt.pt",
    "fixtures/llama",
]
RATES = (0.001, 0.003, 0.01)
EPOCHS, PATIENCE = 40, 2
BATCH_TOKENS = 512


@dataclass(frozen=True)
class Trial:
    """Heads on one network's last states."""

    data: TokenRows
    state: Tensor

    def losses(self, head: Readout, rows: slice) -> NDArray[np.float64]:
        """[sequences] nats."""
        index = torch.arange(rows.start, rows.stop)
        return head.losses(self.state, self.data.targets(slice(None)), index, "the trained network")

    def select(self, head: Readout) -> float:
        """Nats on *select*."""
        return float(self.losses(head, self.data.rows.select).sum())

    def trained(self, start: Readout) -> Readout:
        """The best head on *select* of all that Adam passes."""
        best, least = start, self.select(start)
        for rate in RATES:
            for head, loss in self._course(start, rate):
                if loss < least:
                    best, least = head, loss
        return best

    def _course(self, start: Readout, rate: float) -> Iterator[tuple[Readout, float]]:
        """The head after each epoch, and its loss on *select*."""
        weight = start.unembedding.weight.detach().clone()
        size = float(weight.square().mean().sqrt())
        optimizer = torch.optim.Adam([weight.requires_grad_()], lr=rate * size, betas=(0.9, 0.95), fused=True)
        generator, least, since = torch.Generator().manual_seed(0), self.select(start), 0
        fit, targets = self.data.rows.fit, self.data.targets(slice(None))
        for _ in range(EPOCHS):
            for chosen in torch.randperm(fit.stop, generator=generator).split(max(1, BATCH_TOKENS // targets.shape[1])):
                head = replace(start.unembedding, weight=weight)
                logits = head.logits(self.state[chosen, :-1]).flatten(0, 1)
                loss = F.cross_entropy(logits, targets[chosen, 1:].flatten(), ignore_index=NO_TARGET)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            kept = replace(start, unembedding=replace(start.unembedding, weight=weight.detach().clone()))
            found = self.select(kept)
            yield kept, found
            since = 0 if found < least else since + 1
            least = min(least, found)
            if since == PATIENCE:
                break


def measured(config: AuditConfig) -> str:
    """A line of the table: one network."""
    with prepared(config) as audit, exact_float32():
        decoder, _ = held_decoder(audit, check_weights(audit.checkpoint))
        store = StateStore(dtype=decoder.dtype, device=decoder.device)
        calibration = fed(audit.calibration, decoder, config.bos, store)
        data = TokenRows.of(calibration)
        trial = Trial(data, trained_states(decoder, data.tokens, store)[-1])
        factory = ReadoutFactory(decoder, data, trial.state, store)
        began = time.process_time()
        refitted = factory.fit("refit", trial.state, "the trained network")
        middle = time.process_time()
        temperature = factory.final_losses("the trained network").temperature
        tempered = replace(factory.own, unembedding=factory.own.unembedding.scaled(1 / temperature))
        adam = trial.trained(tempered)
        seconds = middle - began, time.process_time() - middle
        rows = data.rows.held_out
        own, theirs, ours = (trial.losses(head, rows) for head in (factory.own, adam, refitted))
        counts = data.predictions(rows).numpy()
        more = ClusterBootstrap(calibration.held_out.clusters, resamples=2000, seed=0).ratio(theirs - ours, counts)
        cells = (number(float(losses.sum()) / int(counts.sum())) for losses in (own, theirs, ours))
        return (
            f"| {audit.checkpoint.info.path} | {decoder.vocabulary} | {' | '.join(cells)} | {signed(more.value)} "
            f"({interval(more, sign=True)}) | {seconds[1]:.1f} | {seconds[0]:.1f} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="*", default=FIXTURES, help="the nanoGPT and the Llama fixture, if none")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=16384)
    given = parser.parse_args()
    print("| network | words | own head | by Adam | refitted | more (95 %) | Adam's CPU s | CPU s |")
    print("|---|---:|---:|---:|---:|---|---:|---:|")
    for path in given.checkpoint:
        config = AuditConfig(checkpoint=path, data=tuple(given.data), tokens=given.tokens, schedules=("final",))
        print(measured(config), flush=True)


if __name__ == "__main__":
    main()
