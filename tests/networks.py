"""Tiny networks that are open as an audit opens them: a decoder over a saved checkpoint, tokens, splits, states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from peelaudit.checkpoints import open_checkpoint
from peelaudit.network.decoder import Decoder
from peelaudit.network.families import family_of
from peelaudit.network.lowbit.constraints import Constraint
from peelaudit.network.states import Rows, StateStore, trained_states
from peelaudit.network.weights import check_weights


@dataclass(frozen=True, slots=True)
class Network:
    """A decoder over `tokens`, and its states h_0 … h_L."""

    decoder: Decoder
    tokens: Tensor
    rows: Rows
    states: tuple[Tensor, ...]


def splits(fit: int, select: int, held_out: int) -> Rows:
    """The splits of that many sequences each, one after another."""
    return Rows(slice(0, fit), slice(fit, fit + select), slice(fit + select, fit + select + held_out))


ROWS = splits(24, 8, 6)


@contextmanager
def opened(
    path: Path,
    *,
    rows: Rows = ROWS,
    positions: int = 12,
    dtype: torch.dtype = torch.float64,
    bits: Constraint | None = None,
) -> Iterator[Network]:
    """The network of a checkpoint over random tokens, in float64 unless told: what is exact can then be held to it.

    With `bits` every matrix of its blocks is rounded to that set, and held to it, each expert's, and no router.
    """
    with open_checkpoint(path) as checkpoint:
        blocks = family_of(checkpoint).blocks
        grids = check_weights(checkpoint)
        held = [name for name in grids.matrices(blocks) if name not in grids.routers]
        decoder = Decoder(
            checkpoint,
            seq_len=positions,
            device=torch.device("cpu"),
            dtype=dtype,
            constraints=dict.fromkeys(held, bits) if bits else None,
            rounding=True,
        )
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(3, decoder.vocabulary, (rows.held_out.stop, positions), generator=generator)
        yield Network(decoder, tokens, rows, trained_states(decoder, tokens, StateStore(dtype=dtype)))
