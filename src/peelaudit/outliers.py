"""Which layers stand out: repair gaps against their spread over the layers.

Every layer gains something by a repair on a text that the network wasn't tuned for, and the neighbours of a damaged
layer gain with it, for they can make up for some of the damage. So a layer's gap is compared with those of the layers
that are neither its neighbours nor named before it, and the neighbour of a named layer isn't named. Where that leaves
few, their spread is a poor guess of what healthy layers differ by; it is moderated by a prior guess with so many
degrees of freedom (Smyth, "Linear models and empirical Bayes methods", 2004). The bootstrap's error of the contrast is
added, and the level divided by the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from peelaudit.bounds import Losses, Panel
from peelaudit.stats import CONFIDENCE, RESOLUTION, student_quantile

__all__ = ["LOW_BIT_SPREAD", "MOST_NAMED", "PRIOR_FREEDOM", "PRIOR_SPREAD", "standing_out"]

MOST_NAMED = 3
PRIOR_SPREAD = 0.1
"""Standard deviation of healthy layers' gaps, relative to their mean. A guess: two draws of text on the
undamaged stories260K had 0.09 and 0.22."""
LOW_BIT_SPREAD = 0.8
"""The same for low-bit networks, where a step gains by the weights that it carries to another value: 0.79 on the
undamaged bitllama-3M, where two blocks of eight gained nothing.
"""
PRIOR_FREEDOM = 4


def standing_out(
    panel: Panel, gains: Sequence[Losses], suspects: Collection[int] = (), *, low_bit: bool = False
) -> tuple[int, ...]:
    """The layers, 1 … L, whose gap stands out, the largest first; at most three.

    Args:
        panel: of the network's losses.
        gains: [L] arrays of the panel's sequences: nats that each block's repair gains; only *held-out* is looked at.
        suspects: layers, 1 … L, that are known to be damaged: they and their neighbours aren't named for a gap.
        low_bit: whether the blocks are: healthy ones' gaps then differ more.
    """
    gaps = np.array([panel.mean(gain, "held_out") for gain in gains])
    known = [layer - 1 for layer in suspects]
    spread = LOW_BIT_SPREAD if low_bit else PRIOR_SPREAD
    named: list[int] = []
    for index in map(int, np.argsort(-gaps)):
        if index in known:
            continue
        if len(named) == MOST_NAMED or not _stands_out(panel, gains, gaps, index, [*known, *named], spread):
            break
        if all(abs(index - one) > 1 for one in (*known, *named)):
            named.append(index)
    return tuple(index + 1 for index in named)


def _others(index: int, named: Sequence[int], n_layers: int) -> list[int]:
    """The layers to compare with: none next to this one or named, unless fewer than two are left."""
    left = [other for other in range(n_layers) if other != index and other not in named]
    apart = [other for other in left if all(abs(other - one) > 1 for one in (index, *named))]
    return apart if len(apart) > 1 else left


def _stands_out(
    panel: Panel, gains: Sequence[Losses], gaps: Losses, index: int, named: Sequence[int], spread: float
) -> bool:
    others = _others(index, named, len(gaps))
    if len(others) < 2:
        return False
    rest = gaps[others]
    mean = float(rest.mean())
    own = panel.estimate(gains[index], "held_out")
    contrast = panel.estimate(gains[index] - np.mean([gains[other] for other in others], axis=0), "held_out")
    if own.low <= RESOLUTION or contrast.low <= RESOLUTION:
        return False
    prior = max(spread * mean, RESOLUTION)
    freedom = len(rest) - 1
    variance = (PRIOR_FREEDOM * prior**2 + freedom * float(rest.var(ddof=1))) / (PRIOR_FREEDOM + freedom)
    sampling = (contrast.high - contrast.low) / (2 * student_quantile((1 + CONFIDENCE) / 2, 1000))
    error = math.sqrt(variance * (1 + 1 / len(rest)) + sampling**2)
    return contrast.value > error * student_quantile(1 - (1 - CONFIDENCE) / len(gaps), PRIOR_FREEDOM + freedom)
