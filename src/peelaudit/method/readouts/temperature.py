"""The temperature that a head's logits want: of least loss on some sequences."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.readouts.readout import Readout, token_losses
from peelaudit.network.memory import batches

__all__ = ["wanted"]

REACH = math.log(4)
"""How far from 1 a temperature is looked for, as a logarithm."""
COARSE, FINE = 5, 4
"""Temperatures in the two passes over the text; with a parabola through the last it is found to 1 %."""


def wanted(readout: Readout, state: Tensor, targets: Tensor, what: str) -> float:
    """The log of that temperature; above 0 the network is over-confident.

    Args:
        readout: the head as it is.
        state: [sequences, positions, d_model]
        targets: [sequences, positions], `NO_TARGET` where a token isn't to be predicted.
        what: the subject, for the error.

    Raises:
        NonFiniteResult: if a loss is NaN or Inf.
    """
    coarse = np.linspace(-REACH, REACH, COARSE)
    losses = _losses(readout, state, targets, coarse, what)
    least = int(losses.argmin())
    low, high = (coarse[min(max(least + side, 0), COARSE - 1)] for side in (-1, 1))
    fine = np.linspace(low, high, FINE + 2)[1:-1]  # of these none is halfway, which is known
    at = np.concatenate([coarse, fine])
    order = at.argsort()
    at, losses = at[order], np.concatenate([losses, _losses(readout, state, targets, fine, what)])[order]
    return _bottom(at, losses)


def _bottom(at: NDArray[np.float64], losses: NDArray[np.float64]) -> float:
    """Where the parabola through the least of some losses and its neighbours is lowest."""
    least = int(losses.argmin())
    if least in (0, len(at) - 1):
        return float(at[least])
    around = slice(least - 1, least + 2)
    x, y = at[around] - at[least], losses[around] - losses[least]
    rise, fall = y[2] / x[2], y[0] / x[0]  # the slopes to both sides
    bend = (rise - fall) / (x[2] - x[0])
    if not bend > 0:
        return float(at[least])
    return float(at[least] - (rise - bend * x[2]) / (2 * bend))


@torch.no_grad()
def _losses(
    readout: Readout, state: Tensor, targets: Tensor, exponents: NDArray[np.float64], what: str
) -> NDArray[np.float64]:
    """[temperatures] nats, of each one's log, summed over all predictions: the head's map is applied once."""
    head, sums = readout.unembedding, torch.zeros(len(exponents), dtype=torch.float64)
    for part in batches(slice(0, len(state)), state.shape[1], readout.batch_tokens):
        head.work.read(targets[part, 1:].numel())
        scores = head.scores(head.normed(state[part, :-1]))
        for place, exponent in enumerate(exponents):
            logits = head.finished(scores * math.exp(-exponent))
            sums[place] += token_losses(logits, targets[part, 1:].to(logits.device)).double().sum().cpu()
    if not bool(sums.isfinite().all()):
        raise NonFiniteResult(f"{what}: the loss is NaN or Inf under the readout {readout.kind!r}")
    found: NDArray[np.float64] = sums.numpy()
    return found
