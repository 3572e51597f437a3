"""`make bench`, its second table: the reference `refined` against AdamW end to end, on the fixtures.

Both move the blocks of the same network on the same fit tokens under the same refitted head; AdamW takes the best of
three learning rates and of the epochs by *select* (`bench/end_to_end.py`). Losses are held-out, in nats/token, gains
with their 95 % intervals; the last but one column is what `refined` gains more, paired. Times are CPU seconds, AdamW's
of all three rates.

`--blocks` refines each block alone instead, as far as `--effort` does, against 2,000 Adam steps of that block at each
rate. Other checkpoints: `python -m bench.refined CKPT --data TEXT`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bench.end_to_end import end_to_end
from peelaudit.auditing.effort import extent
from peelaudit.auditing.measure import Measurer
from peelaudit.auditing.prepare import held_decoder, prepared
from peelaudit.method.linalg.precision import exact_float32
from peelaudit.method.refinement.reach import Reach
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.network.weights import check_weights
from peelaudit.records import Estimate
from peelaudit.reports.wording.text import interval, number, signed
from peelaudit.settings.audit import AuditConfig
from tests.places import FIXTURES

STEPS_OF_NANOGPT = ("-000000", "-000100", "-000250", "-000600", "-001200", "")
DEFAULT = [FIXTURES / f"nanogpt/ckpt{step}.pt" for step in STEPS_OF_NANOGPT]
DEFAULT += [FIXTURES / name for name in ("llama", "llama-ternary")]
STEPS = 2000
"""Of Adam, for one block."""


def compared(config: AuditConfig, *, blocks: bool) -> Iterator[str]:
    """A line for the network, or for each of its blocks."""
    with prepared(config) as audit, exact_float32():
        decoder, _ = held_decoder(audit, check_weights(audit.checkpoint))
        measurer = Measurer(
            decoder, audit.calibration, audit.config, store=StateStore(dtype=decoder.dtype, device=decoder.device)
        )
        found = _Comparison(measurer, decoder, TokenRows.of(audit.calibration))
        reach = extent(config, decoder.n_layers)
        yield from found.lines(config, reach.alone if blocks and reach.alone else reach.whole, blocks=blocks)


def _name(config: AuditConfig, layer: int | None) -> str:
    path = Path(config.checkpoint)
    name = f"{path.parent.name}/{path.name}"
    return name if layer is None else f"{name}, layer {layer}"


class _Comparison:
    """Both ways on one network."""

    def __init__(self, measurer: Measurer, decoder: Decoder, data: TokenRows) -> None:
        self._measurer, self._decoder, self._data = measurer, decoder, data
        embedded = torch.cat([decoder.embed(part) for part in data.tokens.split(64)])
        self._embedded = embedded
        self._base = measurer.losses_of(decoder, measurer.head)

    def lines(self, config: AuditConfig, reach: Reach, *, blocks: bool) -> Iterator[str]:
        """One for the network, or for each block, the last first."""
        refiner = self._measurer.refiner
        begun = time.process_time()
        for refined in refiner.each(reach) if blocks else (refiner.all(reach),):
            ours, layer = refiner.losses(refined, self._data.rows.held_out), refined.layers[0] if blocks else None
            yield self._line(_name(config, layer), layer, ours, time.process_time() - begun)
            begun = time.process_time()

    def _line(self, name: str, layer: int | None, ours: Losses, spent: float) -> str:
        adam = end_to_end(
            self._decoder, self._embedded, self._data, self._measurer.head,
            layers=None if layer is None else [layer], steps=None if layer is None else STEPS,
        )  # fmt: skip
        mine, theirs = self._gain(ours), self._gain(adam.held_out)
        more = self._estimate(adam.held_out - ours)
        rate = "-" if adam.learning_rate is None else f"{adam.learning_rate:g}"
        return (
            f"{name:32.32} {number(self._mean(self._base))} {number(self._mean(ours))} {signed(mine.value)} "
            f"{interval(mine, sign=True):18} {spent:6.0f}  {number(self._mean(adam.held_out))} {signed(theirs.value)} "
            f"{interval(theirs, sign=True):18} {rate:>6} {adam.seconds:6.0f}  {signed(more.value)} "
            f"{interval(more, sign=True)}"
        )

    def _mean(self, losses: Losses) -> float:
        return float(losses.mean()) / (self._data.tokens.shape[1] - 1)

    def _gain(self, losses: Losses) -> Estimate:
        return self._estimate(self._base - losses)

    def _estimate(self, difference: Losses) -> Estimate:
        whole = np.zeros(len(self._data.tokens))
        whole[self._data.rows.held_out] = difference
        return self._measurer.panel.estimate(whole, "held_out")


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=AuditConfig(checkpoint="").tokens)
    parser.add_argument("--blocks", action="store_true")
    parser.add_argument("--effort", choices=["default", "thorough"], default="default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = f"{'network':32} {'trained':>7} {'refined':>7} {'gain':>7} {'95 %':18} {'CPU s':>6}  "
    print(heads + f"{'AdamW':>6} {'gain':>7} {'95 %':18} {'rate':>6} {'CPU s':>6}  {'more':>7} 95 %")
    for path in options.checkpoints or DEFAULT:
        config = AuditConfig(
            checkpoint=str(path), data=tuple(options.data), tokens=options.tokens, effort=options.effort
        )
        for line in compared(config, blocks=options.blocks):
            print(line, flush=True)


if __name__ == "__main__":
    main()
