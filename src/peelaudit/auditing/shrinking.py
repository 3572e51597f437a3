"""A network without some of its blocks, as a smaller checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from peelaudit.auditing.mending import Bench
from peelaudit.checkpoints.cutting import without_layers
from peelaudit.checkpoints.placing import copy_beside
from peelaudit.checkpoints.saving import other_weights, save_directory
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.method.readouts.readout import Readout
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.states import TokenRows, apply_block, embedded, trained_states
from peelaudit.network.unembedding import Unembedding

__all__ = ["cheapest_layer", "check_smaller", "write_smaller"]


def cheapest_layer(bench: Bench) -> int:
    """The layer, 1 … L, without which the loss on *select* is least."""
    data = TokenRows.of(bench.calibration)
    rows = data.rows.select
    states = trained_states(bench.decoder, data.tokens[rows], bench.store, progress=bench.audit.clock)
    layers = range(1, bench.decoder.n_layers + 1)
    losses = [_losses(bench, states[layer - 1], range(layer + 1, len(states)), rows).sum() for layer in layers]
    return 1 + int(np.argmin(losses))


def _losses(bench: Bench, state: Tensor, layers: Collection[int], rows: slice) -> Losses:
    """[sequences] nats of some sequences, whose states go through these blocks alone, under the network's own head."""
    decoder, data = bench.decoder, TokenRows.of(bench.calibration)
    what = "the network without a layer"
    for layer in layers:
        output = bench.store.empty(*state.shape)
        state = apply_block(decoder.block(layer), state, output, device=decoder.device, dtype=decoder.dtype, what=what)
    head = Readout("own", Unembedding.of(decoder))
    return head.losses(state, data.targets(rows), torch.arange(len(state)), what)


def write_smaller(bench: Bench, dropped: Collection[int], directory: Path) -> None:
    """Write the network without these layers, 1 … L, into an empty directory.

    Raises:
        OSError: it couldn't be written.
    """
    checkpoint = bench.audit.checkpoint
    copy_beside(checkpoint, directory, bench.audit.config.config, configured=False)
    config = without_layers(checkpoint.config, {layer - 1 for layer in dropped})
    save_directory(checkpoint, directory, config, _parts(bench, dropped))


def _parts(bench: Bench, dropped: Collection[int]) -> Iterator[dict[str, Tensor]]:
    """All parameters, a block at a time, under the numbers that the blocks have then."""
    checkpoint, blocks = bench.audit.checkpoint, bench.decoder.family.blocks
    kept = [layer for layer in range(1, bench.decoder.n_layers + 1) if layer not in dropped]
    for number, layer in enumerate(kept):
        old, new = f"{blocks}.{layer - 1}.", f"{blocks}.{number}."
        names = [name for name in checkpoint.names() if name.startswith(old)]
        yield {new + name.removeprefix(old): checkpoint.stored(name) for name in names}
    yield from other_weights(checkpoint, blocks)


def check_smaller(bench: Bench, dropped: Collection[int], smaller: Bench) -> None:
    """Raise UnsupportedCheckpoint unless the smaller checkpoint computes what the network's other blocks do: what a
    layer is may depend on its number in a way that no list of the configuration says.
    """
    data, decoder = TokenRows.of(bench.calibration), bench.decoder
    rows = data.rows.held_out
    state = embedded(decoder, data.tokens[rows], bench.store)
    kept = [layer for layer in range(1, decoder.n_layers + 1) if layer not in dropped]
    if not np.allclose(_losses(bench, state, kept, rows), smaller.losses, rtol=1e-6):
        raise UnsupportedCheckpoint(
            f"{bench.audit.checkpoint.info.path}: what its layers are depends on their numbers, so that none can be"
            " dropped by its configuration"
        )
