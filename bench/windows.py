"""What the length of a sequence does to a trained network's loss: the same number of tokens, cut at each power of two.

    python -m bench.windows CHECKPOINT [--data TEXT] [--tokens N] [--least 64] [--most 2048]

Losses are the network's own, in nats/token with their 95 % intervals by cluster, over all three splits together: no
audit is run. `clusters held out` is what an audit would have for its intervals, a quarter of all. `paired` is the loss
of the last 32 predictions of each window less what the network loses on the same tokens when it sees only the last
64 positions: what a longer window gives, without the first tokens of a sequence, of which every length has its share.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from peelaudit.auditing.feeding import fed
from peelaudit.auditing.prepare import held_decoder, prepared
from peelaudit.method.linalg.precision import exact_float32
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.statistics.bootstrap import ClusterBootstrap
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, TokenRows, trained_states
from peelaudit.network.weights import check_weights
from peelaudit.records import Estimate
from peelaudit.reports.wording.text import interval, number, signed
from peelaudit.settings.audit import AuditConfig

SHORT, LAST = 64, 32
"""Positions that a paired prediction sees at least, and how many of a window's last predictions are paired."""


def measured(config: AuditConfig) -> str:
    """A line of the table: one length."""
    with prepared(config) as audit, exact_float32():
        decoder, _ = held_decoder(audit, check_weights(audit.checkpoint))
        store = StateStore(dtype=decoder.dtype, device=decoder.device)
        calibration = fed(audit.calibration, decoder, config.bos, store)
        data, info = TokenRows.of(calibration), calibration.info
        each = _each(decoder, data.tokens, data.targets(slice(None)), store)
        splits = (calibration.fit, calibration.select, calibration.held_out)
        starts = np.cumsum([0, *(int(split.clusters[-1]) + 1 for split in splits[:-1])])
        clusters = np.concatenate([split.clusters + start for split, start in zip(splits, starts, strict=True)])
        bootstrap = ClusterBootstrap(clusters, resamples=2000, seed=0)
        loss = bootstrap.ratio(each.sum(axis=1), data.predictions(slice(None)).numpy())
        gain = "-"
        if info.seq_len > SHORT:
            short = Decoder(audit.checkpoint, seq_len=SHORT, device=decoder.device, dtype=decoder.dtype)
            front = calibration.front if info.front and info.front.placement == "sequence" else ()
            change = _change(short, data, each, front, bootstrap, store)
            gain = f"{signed(change.value)} ({interval(change, sign=True)})"
        where = info.front.placement if info.front else "nothing"
        return (
            f"| {info.seq_len} | {len(each)} | {bootstrap.clusters} | {info.held_out.clusters} | {number(loss.value)} "
            f"| {interval(loss)} | {gain} | {where} |"
        )


def _each(decoder: Decoder, tokens: torch.Tensor, targets: torch.Tensor, store: StateStore) -> NDArray[np.float64]:
    """[sequences, positions - 1] nats."""
    final = trained_states(decoder, tokens, store)[-1]
    own = Readout("own", Unembedding.of(decoder))
    return own.each(final, targets, torch.arange(len(tokens)), "the trained network").numpy()


def _change(
    short: Decoder,
    data: TokenRows,
    each: NDArray[np.float64],
    front: tuple[int, ...],
    bootstrap: ClusterBootstrap,
    store: StateStore,
) -> Estimate:
    """The loss of each window's last predictions less that with a short window before them."""
    tokens, targets = (rows[:, -SHORT:].clone() for rows in (data.tokens, data.targets(slice(None))))
    tokens[:, : len(front)] = torch.tensor(front, dtype=tokens.dtype)
    there = _each(short, tokens, targets, store)[:, -LAST:]
    counts = (targets[:, -LAST:] >= 0).sum(dim=1).numpy()
    return bootstrap.ratio((each[:, -LAST:] - there).sum(axis=1), counts)


def lines(config: AuditConfig, lengths: list[int]) -> Iterator[str]:
    """The table."""
    yield "| window | sequences | clusters | held out | loss | 95 % | last 32 against 64 positions | front |"
    yield "|---:|---:|---:|---:|---:|---|---|---|"
    for length in lengths:
        yield measured(dataclasses.replace(config, seq_len=length))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--least", type=int, default=64)
    parser.add_argument("--most", type=int, default=2048)
    given = parser.parse_args()
    with prepared(AuditConfig(checkpoint=given.checkpoint, data=tuple(given.data), tokens=given.tokens)) as audit:
        most = min(given.most, audit.checkpoint.info.context, given.tokens // 6)
    lengths = [given.least]
    while 2 * lengths[-1] <= most:
        lengths.append(2 * lengths[-1])
    for line in lines(AuditConfig(checkpoint=given.checkpoint, data=tuple(given.data), tokens=given.tokens), lengths):
        print(line, flush=True)


if __name__ == "__main__":
    main()
