"""Which layers stand out: repair gaps and slopes against their spread over the layers.

Every layer gains something by a repair on a text that the network wasn't tuned for, and the neighbours of a damaged
layer gain with it, for they can make up for some of the damage. So a layer's figure is compared with those of the
layers that are neither its neighbours nor named before it, and the neighbour of a named layer isn't named. To be named
it has to be clear of its neighbours too, for of two that tie neither can be told to be the one, and of nearly all other
layers: an over-fitted network's first layer may want to be as much smaller as its last wants to be larger. Where that
leaves few, their spread is a poor guess of what healthy layers differ by; it is moderated by a prior guess with so many
degrees of freedom (Smyth, "Linear models and empirical Bayes methods", 2004). The bootstrap's error is added, and the
level divided by the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from peelaudit.method.statistics.bootstrap import CONFIDENCE, RESOLUTION, student_quantile
from peelaudit.method.statistics.panel import Losses, Panel
from peelaudit.records import Estimate

__all__ = [
    "BULK_SPREAD",
    "FEWEST_CLUSTERS",
    "LEAST_CONTRAST",
    "LOW_BIT_SPREAD",
    "MANY",
    "MARGIN",
    "MOST_NAMED",
    "MOST_TIED",
    "PRIOR_FREEDOM",
    "PRIOR_SPREAD",
    "SLOPE_SPREAD",
    "BulkSlopes",
    "Gaps",
    "ScaleSlopes",
    "Yardstick",
    "standing_out",
    "suspicion",
]

MOST_NAMED = 3
LEAST_CONTRAST = 0.01
"""nats/token by which a gap is above the others' mean at least, interval and all: 1 % of perplexity, as the verdict's
tolerance. Less is not worth naming a layer for."""
MOST_TIED = 0.1
"""Share of the layers that may tie and be named: of 5 layers one, of 40 four. What more have in common is the
network's."""
FEWEST_CLUSTERS = 8
"""Of *held-out*, for a layer to be named: a figure's own error is told by its spread over them. With two, a third of
the draws of text on three undamaged networks had a layer named, with three a fifth, with four one in 27."""
PRIOR_SPREAD = 0.1
"""Standard deviation of healthy layers' gaps, relative to their mean. A guess: two draws of text on the
undamaged stories260K had 0.09 and 0.22."""
LOW_BIT_SPREAD = 0.8
"""The same for low-bit networks, where a step gains by the weights that it carries to another value: 0.79 after one
step and 0.47 at the end on the undamaged bitllama-3M.
"""
SLOPE_SPREAD = 0.05
"""Root mean square of healthy layers' scale slopes, over one token's standard deviation. A guess: 0.014, 0.018, 0.020
and 0.029 on four undamaged networks of 4 to 8 layers, 0.07 on one of 30 with texts of 32 tokens."""
MARGIN = 1.25
"""How far beyond its level a gap or a scale slope has to be. Some healthy layers' differ for good: on ten draws of
texts of 32 tokens the slope of SmolLM2's block 12 came to 0.48 to 1.21 times the level, and on six the gap of an
over-fitted network's first block to 0.40 to 1.07."""
MANY = 6
"""Layers to compare a gap with, from which on the largest of them is left out: it may be damaged too."""
BULK_SPREAD = 0.075
"""Standard deviation of healthy layers' bulk slopes, nats/token. A guess: 0.01 to 0.02 on three undamaged networks of
4 to 8 layers, 0.09 on stories260K, 0.13 on SmolLM2."""
PRIOR_FREEDOM = 4

_MEDIAN_FREEDOM = 0.37
"""Degrees of freedom of a spread by medians, for each of one by squares."""
_SIGMAS = 1.4826
"""Standard deviations of a normal law in its median size."""
_UNSURE = 0.99
"""The most that a figure may stand out that names no layer, such as one whose interval is not clear of 0."""


class Yardstick(Protocol):
    """A figure of each layer, and what it stands out from."""

    @property
    def sizes(self) -> Losses:
        """[L] what is largest where damage is thought to be."""

    def ratio(self, index: int, others: Sequence[int]) -> float:
        """How far layer `index` + 1 stands out from `others`, at least two, counted alike; from 1 on it is named."""

    def clear(self, index: int, other: int) -> bool:
        """Whether the figure of layer `index` + 1 is above that of layer `other` + 1 by more than chance."""


class Gaps:
    """Repair gaps, nats/token: how far one is above the others' mean.

    Args:
        panel: of the network's losses.
        gains: [L] arrays of the panel's sequences: nats that each block's repair gains; only *held-out* is looked at.
        low_bit: whether the blocks are: healthy ones' gaps then differ more.
        one_step: whether all repairs stopped after their first step.

    Attributes:
        judged: whether a layer may be named, which takes `FEWEST_CLUSTERS`. One step of low-bit blocks gains by how
            many weights it happens to carry to another value: block 7 of the undamaged bitllama-3M stood out in 3 of 50
            draws of text, and no longer when all were repaired to the end.
    """

    def __init__(self, panel: Panel, gains: Sequence[Losses], *, low_bit: bool = False, one_step: bool = False) -> None:
        self._panel, self._gains = panel, gains
        self.judged = _enough(panel) and not (low_bit and one_step)
        self._spread = LOW_BIT_SPREAD if low_bit else PRIOR_SPREAD
        self.sizes: Losses = np.array([panel.mean(gain, "held_out") for gain in gains])

    def ratio(self, index: int, others: Sequence[int]) -> float:
        """See `Yardstick`."""
        others = sorted(others, key=lambda other: self.sizes[other])[: -1 if len(others) >= MANY else None]
        rest = self.sizes[others]
        own = self._panel.estimate(self._gains[index], "held_out")
        mean = np.mean([self._gains[other] for other in others], axis=0)
        contrast = self._panel.estimate(self._gains[index] - mean, "held_out")
        prior = max(self._spread * float(rest.mean()), RESOLUTION)
        variance, freedom = _moderated(prior, float(rest.var(ddof=1)), len(rest) - 1)
        error = math.hypot(math.sqrt(variance * (1 + 1 / len(rest))), _error(contrast))
        level = student_quantile(1 - (1 - CONFIDENCE) / len(self.sizes), freedom)
        ratio = contrast.value / (MARGIN * error * level)
        sure = self.judged and own.low > RESOLUTION and contrast.low > LEAST_CONTRAST
        return ratio if sure else min(ratio, _UNSURE)

    def clear(self, index: int, other: int) -> bool:
        """See `Yardstick`."""
        return self._panel.estimate(self._gains[index] - self._gains[other], "held_out").low > RESOLUTION

    def leading(self) -> tuple[int, ...]:
        """The layers, 1 … L, whose gap is the largest, and those that can't be told from it; none if that are many.

        Whether one leads says where the most is to be gained, not that it is damaged: in a network that stopped early
        one does as well.
        """
        first = int(self.sizes.argmax())
        tied = [other for other in range(len(self.sizes)) if other != first and not self.clear(first, other)]
        few = len(tied) + 1 <= min(MOST_NAMED, len(self.sizes) / 2)
        sure = self.judged and self._panel.estimate(self._gains[first], "held_out").low > RESOLUTION
        return tuple(sorted(index + 1 for index in (first, *tied))) if few and sure else ()


class ScaleSlopes:
    """Scale slopes: how far one is from 0, where a trained network's are, either way, each in the unit of its own
    standard deviation over tokens.

    Args:
        panel: of the network's losses.
        slopes: [L] arrays of the panel's sequences, nats; only *held-out* is looked at.
    """

    def __init__(self, panel: Panel, slopes: Sequence[Losses]) -> None:
        estimates = [panel.estimate(slope, "held_out") for slope in slopes]
        self._enough = _enough(panel)
        rows, root = panel.splits["held_out"], np.sqrt(panel.predictions[panel.splits["held_out"]])
        units = [max(float(np.std(slope[rows] / root)), RESOLUTION) for slope in slopes]
        self.sizes: Losses = np.abs([one.value for one in estimates]) / units
        self._errors = [_error(one) / unit for one, unit in zip(estimates, units, strict=True)]

    def ratio(self, index: int, others: Sequence[int]) -> float:
        """See `Yardstick`."""
        rest = self.sizes[list(others)]
        variance, freedom = _moderated(SLOPE_SPREAD, float(np.square(rest).mean()), len(rest))
        error = math.hypot(math.sqrt(variance), self._errors[index])
        ratio = float(self.sizes[index]) / (MARGIN * error * _level(len(self.sizes), freedom))
        return ratio if self._enough else min(ratio, _UNSURE)

    def clear(self, index: int, other: int) -> bool:
        """See `Yardstick`."""
        return _clear(self.sizes, self._errors, index, other)


class BulkSlopes:
    """Bulk slopes, nats/token: how far above 0 one is, which is where noise brings it.

    Some blocks' bulk is kept for good: SmolLM2's block 12 has -0.5. So the others' spread is told by their median size.

    Args:
        panel: of the network's losses.
        slopes: [L] arrays of the panel's sequences, nats; only *held-out* is looked at.
    """

    def __init__(self, panel: Panel, slopes: Sequence[Losses]) -> None:
        self._enough = _enough(panel)
        estimates = [panel.estimate(slope, "held_out") for slope in slopes]
        self.sizes: Losses = np.array([one.value for one in estimates])
        self._errors = [_error(one) for one in estimates]

    def ratio(self, index: int, others: Sequence[int]) -> float:
        """See `Yardstick`."""
        spread = _SIGMAS * float(np.median(np.abs(self.sizes[list(others)])))
        variance, freedom = _moderated(BULK_SPREAD, spread**2, max(1, round(_MEDIAN_FREEDOM * len(others))))
        error = math.hypot(math.sqrt(variance), self._errors[index])
        ratio = float(self.sizes[index]) / (error * _level(len(self.sizes), freedom))
        return ratio if self._enough else min(ratio, _UNSURE)

    def clear(self, index: int, other: int) -> bool:
        """See `Yardstick`."""
        return _clear(self.sizes, self._errors, index, other)


def _clear(sizes: Losses, errors: Sequence[float], index: int, other: int) -> bool:
    """Whether one size is above another by more than both errors together allow by chance."""
    error = math.hypot(errors[index], errors[other])
    return float(sizes[index] - sizes[other]) > student_quantile((1 + CONFIDENCE) / 2, 1000) * error


def _enough(panel: Panel) -> bool:
    return len(panel.cluster_predictions("held_out")) >= FEWEST_CLUSTERS


def _level(n_layers: int, freedom: int) -> float:
    """How many standard errors from 0 a slope stands out by: 5 % over all layers and both sides, whichever counts."""
    return student_quantile(1 - (1 - CONFIDENCE) / (2 * n_layers), freedom)


def _moderated(prior: float, variance: float, freedom: int) -> tuple[float, int]:
    """The variance of so many degrees of freedom drawn to the prior's, and how many that has."""
    both = PRIOR_FREEDOM + freedom
    return (PRIOR_FREEDOM * prior**2 + freedom * variance) / both, both


def _error(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / (2 * student_quantile((1 + CONFIDENCE) / 2, 1000))


def standing_out(yardstick: Yardstick, suspects: Collection[int] = (), barred: Collection[int] = ()) -> tuple[int, ...]:
    """The layers, 1 … L, whose figure stands out, the largest first; at most three.

    Args:
        yardstick: the figures.
        suspects: layers, 1 … L, that are known to be damaged: they and their neighbours aren't named.
        barred: other layers that aren't named, though the others are compared with them.
    """
    known = [layer - 1 for layer in suspects]
    named: list[int] = []
    for index in map(int, np.argsort(-yardstick.sizes)):
        if index in known or index + 1 in barred:
            continue
        others = _others(index, [*known, *named], len(yardstick.sizes))
        if len(named) == MOST_NAMED or len(others) < 2 or yardstick.ratio(index, others) < 1:
            break
        if any(abs(index - one) <= 1 for one in (*known, *named)):
            continue
        rest = [other for other in range(len(yardstick.sizes)) if other not in (index, *known, *named)]
        tied = [other for other in rest if not yardstick.clear(index, other)]
        alike = len(tied) + 1
        few = alike == 1 or alike <= MOST_TIED * len(yardstick.sizes)
        if few and all(abs(index - other) > 1 for other in tied):
            named.append(index)
    return tuple(index + 1 for index in named)


def suspicion(yardstick: Yardstick, suspects: Collection[int] = ()) -> Losses:
    """[L] how suspect each layer is by this figure, in an order and a unit that two yardsticks share.

    The largest has the ratio that it would be named by, the others their share of that, as their figure is of its.
    """
    known = [layer - 1 for layer in suspects]
    sizes = np.maximum(yardstick.sizes, 0.0)
    largest = max((index for index in range(len(sizes)) if index not in known), key=sizes.__getitem__, default=None)
    if largest is None or sizes[largest] <= 0:
        return np.zeros(len(sizes))
    others = _others(largest, known, len(sizes))
    ratio = max(0.0, yardstick.ratio(largest, others)) if len(others) > 1 else 0.0
    shares: Losses = ratio * sizes / sizes[largest]
    return shares


def _others(index: int, named: Sequence[int], n_layers: int) -> list[int]:
    """The layers to compare with: none next to this one or named, unless fewer than two are left."""
    left = [other for other in range(n_layers) if other != index and other not in named]
    apart = [other for other in left if all(abs(other - one) > 1 for one in (index, *named))]
    return apart if len(apart) > 1 else left
