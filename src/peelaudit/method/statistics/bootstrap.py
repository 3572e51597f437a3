"""Intervals: a paired, studentised bootstrap over clusters (docs/method.md, Statistics).

Every figure is a ratio of sums over sequences, Σ numerator / Σ denominator: a mean loss (nats / tokens), a
difference of two losses on the same tokens, or a normalised error (squared error / squared deviation). Whole
clusters are drawn with replacement, so dependence within a document widens the interval as it should, and the
differences are taken before, so they are paired.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peelaudit.records import Estimate

__all__ = ["CONFIDENCE", "RESOLUTION", "ClusterBootstrap", "student_quantile"]

CONFIDENCE = 0.95
RESOLUTION = 1e-4
"""nats/token that count as nothing: what separates two float32 evaluations of the same network."""


_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(48)
_LEAST_SPREAD = float(np.finfo(np.float64).eps)
"""A draw's sum of squares, in units of the largest of all, below which it is rounding."""


class ClusterBootstrap:
    """Draws of one split's clusters, for every figure on that split.

    Each draw's distance from the figure is divided by the draw's own standard error, and the quantiles of these are
    taken times the figure's standard error (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section
    12.5): where clusters are skewed, the interval reaches further on the side where the rare ones are. Three things are
    done for few clusters:

    - the standard error is that of linearised residuals, whose squares are divided by what the figure leaves of them, 1
      less the cluster's share of the denominator (CR2 of Bell and McCaffrey, "Bias reduction in standard errors for
      linear regression with multi-stage samples", 2002). It is widened by the ratio of Student's quantiles with their
      degrees of freedom, which unequal clusters lower, and with n - 1;
    - the tails cut are those of a normal law beyond its 95 % times sqrt(n / (n - 1));
    - no quantile is further out than Student's with 2 degrees of freedom: a draw of one cluster alone has no spread.

    What that covers was measured, docs/results/intervals.md.

    Args:
        clusters: [sequences] the cluster of each sequence, any integers.
        resamples: how many draws.
        seed: of the draws.

    Raises:
        ValueError: if there is no sequence or fewer than 2 clusters.
    """

    def __init__(self, clusters: NDArray[np.int64], *, resamples: int, seed: int) -> None:
        names, self._index = np.unique(clusters, return_inverse=True)
        self.clusters = len(names)
        if self.clusters < 2:
            raise ValueError(f"{self.clusters} cluster(s): an interval needs at least 2")
        rng = np.random.default_rng(seed)
        uniform = np.full(self.clusters, 1 / self.clusters)
        self._weights = rng.multinomial(self.clusters, uniform, size=resamples).astype(np.float64)
        self._correction = self.clusters / (self.clusters - 1)
        normal = NormalDist()
        self._tail = normal.cdf(normal.inv_cdf((1 - CONFIDENCE) / 2) * math.sqrt(self._correction))
        self._furthest = student_quantile(1 - self._tail, 2)
        self._student = student_quantile((1 + CONFIDENCE) / 2, self.clusters - 1)

    def ratio(self, numerator: ArrayLike, denominator: ArrayLike) -> Estimate:
        """Σ numerator / Σ denominator with its interval. The order of sequences and of clusters is nothing to it.

        Args:
            numerator: [sequences] sums per sequence.
            denominator: [sequences] the matching counts or sums, none below 0.

        Raises:
            FloatingPointError: if a sum or their ratio is NaN or Inf, a denominator is below 0, or fewer than 2
                clusters have one above: nothing non-finite passes.
        """
        top, bottom = self.per_cluster(numerator), self.per_cluster(denominator)
        if not (np.isfinite(top).all() and np.isfinite(bottom).all() and (bottom >= 0).all() and bottom.any()):
            raise FloatingPointError("a sum over sequences is not finite, or there is nothing to divide by")
        order = np.lexsort((bottom, top))
        top, bottom = top[order], bottom[order]
        with np.errstate(over="ignore", invalid="ignore"):
            total = bottom.sum()
            value = float(top.sum() / total)
            residuals = top - value * bottom
            unit = float(np.abs(residuals).max())
        if not np.isfinite([total, value, unit]).all():
            raise FloatingPointError("finite sums add up or divide to what is not finite")
        if unit == 0:
            return Estimate(value, value, value)
        low, high = (value - unit / float(total) * reach for reach in self._reach(residuals / unit, bottom / total))
        if not np.isfinite([low, high]).all():
            raise FloatingPointError("finite sums add up or divide to what is not finite")
        return Estimate(value, min(low, value), max(high, value))

    def _reach(self, residuals: NDArray[np.float64], shares: NDArray[np.float64]) -> tuple[float, float]:
        """How far below and, negative, above the figure its interval reaches, in the unit of the residuals.

        Args:
            residuals: [clusters] numerators less the figure times the denominators, none over 1 in size.
            shares: [clusters] of the denominator.
        """
        kept = 1 - shares
        if kept.min() <= 0:
            raise FloatingPointError("all that there is to divide by is in one cluster")
        columns = np.stack((residuals, shares, residuals**2, residuals * shares, shares**2), axis=1)
        moved, size, squares, products, sizes = (self._weights @ columns).T
        drawn = size > 0
        away = np.divide(moved, size, out=np.zeros_like(moved), where=drawn)
        variance = self._correction * np.maximum(squares - 2 * away * products + away**2 * sizes, _LEAST_SPREAD)
        ratios = np.clip(moved / np.sqrt(variance), -self._furthest, self._furthest)
        lowest, highest = np.quantile(ratios[drawn], (self._tail, 1 - self._tail))
        unequal = student_quantile((1 + CONFIDENCE) / 2, _freedom(shares)) / self._student
        error = unequal * math.sqrt(float((residuals**2 / kept).sum()))
        return float(highest) * error, float(lowest) * error

    def per_cluster(self, sums: ArrayLike) -> NDArray[np.float64]:
        """[clusters] sums over each cluster, in the order of the clusters' names, of [sequences] sums."""
        weights = np.asarray(sums, dtype=np.float64)
        return np.bincount(self._index, weights=weights, minlength=self.clusters).astype(np.float64)


def _freedom(shares: NDArray[np.float64]) -> float:
    """Degrees of freedom, 1 … n - 1, of the squared standard error of a ratio whose clusters have these shares of the
    denominator: twice its squared mean over its variance, were the numerators normal with variances in proportion to
    the denominators (Satterthwaite).
    """
    leverages = shares**2 / (1 - shares)
    return 1 / float((shares**2).sum() + leverages.sum() ** 2 - (leverages**2).sum())


def student_quantile(probability: float, freedom: float) -> float:
    """Student's t quantile at a probability of 0.5 or more, for degrees of freedom of 1 or more, whole or not.

    With t = sqrt(freedom) tan(a), the probability of 0 … t is the integral of cos^(freedom - 1) over 0 … a, over twice
    that over a right angle. As the integrand falls, Newton's steps from 0 never overshoot.
    """
    whole = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) * math.sqrt(math.pi)
    wanted, angle = (probability - 0.5) * whole, 0.0
    for _ in range(200):
        cosines = np.cos(angle * (1 + _NODES) / 2)
        found = angle / 2 * float(_NODE_WEIGHTS @ cosines ** (freedom - 1))
        step = (wanted - found) / math.cos(angle) ** (freedom - 1)
        angle += step
        if step <= 1e-14 * angle:
            break
    return math.sqrt(freedom) * math.tan(angle)
