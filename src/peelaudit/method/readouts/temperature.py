"""The temperature that a head's logits want: of least loss on some sequences."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.method.readouts.readout import Readout

__all__ = ["Wanted", "wanted"]

REACH = math.log(4)
"""How far from 1 a temperature is looked for, as a logarithm."""
COARSE, FINE = 5, 4
"""Temperatures in the two passes over the text, 1 in the middle of the first; with a parabola through the last it is
found to 1 %."""


class Wanted(NamedTuple):
    """What the logits of a head want.

    Attributes:
        exponent: the log of the temperature; above 0 the network is over-confident.
        plain: nats at temperature 1, summed over all predictions.
    """

    exponent: float
    plain: float


def wanted(readout: Readout, state: Tensor, targets: Tensor, index: Tensor, what: str) -> Wanted:
    """What the logits want.

    Args:
        readout: the head as it is.
        state: [sequences, positions, d_model]
        targets: [sequences, positions], `NO_TARGET` where a token isn't to be predicted.
        index: [n] which sequences.
        what: the subject, for the error.

    Raises:
        NonFiniteResult: if a loss is NaN or Inf.
    """

    def summed(exponents: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (
            readout.tempered(state, targets, index, exponents.tolist(), what).sum((1, 2)).numpy()
        )
        return found

    coarse = np.linspace(-REACH, REACH, COARSE)
    losses = summed(coarse)
    least, plain = int(losses.argmin()), float(losses[COARSE // 2])
    low, high = (coarse[min(max(least + side, 0), COARSE - 1)] for side in (-1, 1))
    fine = np.linspace(low, high, FINE + 2)[1:-1]  # of these none is halfway, which is known
    at = np.concatenate([coarse, fine])
    order = at.argsort()
    return Wanted(_bottom(at[order], np.concatenate([losses, summed(fine)])[order]), plain)


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
