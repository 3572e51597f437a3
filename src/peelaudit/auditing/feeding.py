"""What the tokenizer's first token does for the trained network: where it stands, and whether it is ever a target.

Some networks hardly predict without it at the head of a sequence, others were trained on sequences that begin anywhere.
Some were trained to predict it between packed documents, others never, and it then costs them ten nats each time. The
network itself knows: both are read off its losses on *select*.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from peelaudit.calibration import Calibration
from peelaudit.calibration.feeding import begins_with
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, trained_states
from peelaudit.progress import SILENT, Progress
from peelaudit.settings.audit import Bos

__all__ = ["fed"]


LEAST_GAIN = 0.01
"""Nats/token for which the token is put before every sequence: an untrained network does as badly either way, and is to
be fed as the later ones of its run are, more often than not.
"""


def fed(
    calibration: Calibration, decoder: Decoder, wanted: Bos, store: StateStore, *, progress: Progress = SILENT
) -> Calibration:
    """The calibration with the tokenizer's first tokens where they belong, and as targets or not.

    Args:
        calibration: with them before documents alone.
        decoder: the trained network.
        wanted: where the settings put them.
        store: where states go.
        progress: told of each look.

    Raises:
        NonFiniteResult: a state or a loss of the network is NaN or Inf.
    """
    front = calibration.front
    if not front:
        return calibration
    progress.stage("what sequences begin with", 2)
    found, losses = calibration, None
    each = _select_losses(calibration, decoder, store)
    progress.advance()
    if wanted != "document" and calibration.info.seq_len > len(front) + 1:
        other = calibration.headed()
        same = np.array_equal(other.select.tokens, calibration.select.tokens)
        each_headed = each if same else _select_losses(other, decoder, store)
        losses = _compared(calibration, each, each_headed)
        if wanted == "sequence" or losses[0] - losses[1] > LEAST_GAIN:
            found, each = other, each_headed
    progress.advance()
    fed_only = _never_predicted(found, each)
    placed = found.placed("document" if found is calibration else "sequence", losses, fed_only)
    return placed.feeding_only(fed_only) if fed_only else placed


def _compared(calibration: Calibration, each: NDArray[np.float64], headed: NDArray[np.float64]) -> tuple[float, float]:
    """nats/token of the tokens of *select* that both predict, without and with `front` before each sequence."""
    tokens, front = calibration.select.tokens, calibration.front
    moved, length = ~begins_with(tokens, front), len(front)
    headed = np.where(moved[:, None], np.roll(headed, -length, axis=1), headed)
    both = ~np.isin(tokens[:, 1:], front)
    both[:, -length:] = False
    return float(each[both].mean()), float(headed[both].mean())


def _never_predicted(calibration: Calibration, each: NDArray[np.float64]) -> tuple[int, ...]:
    """Which of the first tokens the network predicts worse within sequences than by their share of all tokens."""
    targets = calibration.select.tokens[:, 1:]
    found = []
    for token in dict.fromkeys(calibration.front):
        there = targets == token
        if there.any() and float(each[there].mean()) > -math.log(float(there.mean())):
            found.append(token)
    return tuple(found)


def _select_losses(calibration: Calibration, decoder: Decoder, store: StateStore) -> NDArray[np.float64]:
    """[sequences, positions - 1] nats of each prediction of *select*, under the network's own head."""
    tokens = torch.from_numpy(calibration.select.tokens)
    final = trained_states(decoder, tokens, store)[-1]
    own = Readout("own", Unembedding.of(decoder))
    return own.each(final, tokens, torch.arange(len(tokens)), "the trained network").numpy()
