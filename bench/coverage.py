"""How often an interval holds the true figure: simulated documents, many times over.

    python -m bench.coverage [--runs 2000] [--documents 2 3 …] [--method peelaudit]

A figure is Σ numerator / Σ denominator over documents of unequal length, 1 to 30 sequences (log-normal, median 4), or
of 5 sequences each. Sequences of a document are correlated, by 0.3 or 0.7, and what they differ by is

- normal;
- skewed: exponential (skewness 2), both of sequences and of documents;
- very skewed: log-normal with a standard deviation of 1 of its logarithm (skewness 6.2), both too;
- by length: normal, about a mean that grows by half a standard deviation, or a whole one, with each factor of e in the
  document's length, so that a figure hangs on how many long documents were met.

The true figure is exact. Every cell is coverage in per cent, and how often the true figure was above and below the
interval; the Monte Carlo error of a coverage is given underneath. `width` is the median width of the intervals over
that of Student's at 1.96 standard errors of the simulation. `--method` takes a rival instead of the interval that
peelaudit reports.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from peelaudit.method.statistics.bootstrap import ClusterBootstrap
from peelaudit.records import Estimate

Array = NDArray[np.float64]
Method = Callable[[Array, Array, int], Estimate]
LENGTHS = np.arange(1, 31)
MEDIAN, EQUAL, SEEDS, RESAMPLES = 4.0, 5, 20, 2000


@dataclass(frozen=True, slots=True)
class Law:
    """What the documents of a cell are drawn from. `slope` is of the mean by the logarithm of a document's length."""

    shape: str
    unequal: bool
    correlation: float
    slope: float = 0.0

    @property
    def name(self) -> str:
        """Of the column."""
        shape = f"by length, {self.slope:g}" if self.slope else self.shape
        return f"{shape}{'' if self.unequal else ', equal'}, {self.correlation:g}"


LAWS = tuple(
    Law(shape, unequal, correlation, slope)
    for correlation in (0.3, 0.7)
    for shape, unequal, slope in (
        ("normal", True, 0.0),
        ("skewed", True, 0.0),
        ("very skewed", True, 0.0),
        ("normal", True, 0.5),
        ("normal", True, 1.0),
        ("normal", False, 0.0),
        ("skewed", False, 0.0),
        ("very skewed", False, 0.0),
    )
)


def chances(law: Law) -> Array:
    """[30] of each length."""
    if not law.unequal:
        return (LENGTHS == EQUAL).astype(np.float64)
    edges = np.log(np.concatenate(([1e-9], LENGTHS[:-1] + 0.5, [1e9])) / MEDIAN)
    return np.diff(scipy.stats.norm.cdf(edges)).astype(np.float64)


def effects(rng: np.random.Generator, shape: str, size: tuple[int, ...]) -> Array:
    """Of mean 0 and variance 1."""
    if shape == "normal":
        return rng.normal(size=size)
    if shape == "skewed":
        return rng.exponential(size=size) - 1
    return np.asarray((rng.lognormal(size=size) - math.exp(0.5)) / math.sqrt(math.e * (math.e - 1)))


def simulated(law: Law, documents: int, runs: int, seed: int) -> tuple[Array, Array, float]:
    """[runs, documents] numerators and denominators, and the true figure."""
    rng = np.random.default_rng(seed)
    known = chances(law)
    lengths = rng.choice(LENGTHS, size=(runs, documents), p=known)
    sequences = effects(rng, law.shape, (runs, documents, LENGTHS[-1]))
    own = np.where(np.arange(LENGTHS[-1]) < lengths[..., None], sequences, 0).sum(axis=2)
    shared = lengths * (law.slope * np.log(lengths) + math.sqrt(law.correlation) * effects(rng, law.shape, own.shape))
    truth = law.slope * float((known * LENGTHS) @ np.log(LENGTHS) / (known @ LENGTHS))
    return shared + math.sqrt(1 - law.correlation) * own, lengths.astype(np.float64), truth


def peelaudit_method(documents: int) -> Method:
    """What is reported, with several seeds, lest one set of draws decides."""
    drawn = [ClusterBootstrap(np.arange(documents), resamples=RESAMPLES, seed=seed) for seed in range(SEEDS)]
    return lambda top, bottom, run: drawn[run % SEEDS].ratio(top, bottom)


def percentile_method(documents: int, *, accelerated: bool = False) -> Method:
    """Percentiles of the draws expanded by Hesterberg's rule, as peelaudit reported until 2026; or those of BCa, bias-
    corrected and accelerated, expanded alike.
    """
    counts = [
        np.random.default_rng(seed).multinomial(documents, np.full(documents, 1 / documents), size=RESAMPLES)
        for seed in range(SEEDS)
    ]
    reach = math.sqrt(documents / (documents - 1)) * scipy.stats.t.ppf(0.975, documents - 1)

    def interval(top: Array, bottom: Array, run: int) -> Estimate:
        value, drawn = top.sum() / bottom.sum(), counts[run % SEEDS]
        draws = (drawn @ top) / (drawn @ bottom)
        levels = scipy.stats.norm.cdf((-reach, reach))
        if accelerated:
            left_out = (top.sum() - top) / (bottom.sum() - bottom)
            away = left_out.mean() - left_out
            speed = (away**3).sum() / (6 * (away @ away) ** 1.5)
            bias = scipy.stats.norm.ppf(np.clip((draws < value).mean(), 1 / RESAMPLES, 1 - 1 / RESAMPLES))
            moved = bias + np.array((-reach, reach))
            levels = scipy.stats.norm.cdf(bias + moved / np.maximum(1 - speed * moved, 1e-9))
        low, high = np.quantile(draws, levels)
        return Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)))

    return interval


def student_method(documents: int) -> Method:
    """Student's t with linearised residuals, n - 1 degrees of freedom."""
    reach = scipy.stats.t.ppf(0.975, documents - 1) * math.sqrt(documents / (documents - 1))

    def interval(top: Array, bottom: Array, run: int) -> Estimate:
        value = float(top.sum() / bottom.sum())
        half = reach * float(np.linalg.norm(top - value * bottom)) / float(bottom.sum())
        return Estimate(value, value - half, value + half)

    return interval


METHODS: dict[str, Callable[[int], Method]] = {
    "peelaudit": peelaudit_method,
    "percentile": percentile_method,
    "bca": lambda documents: percentile_method(documents, accelerated=True),
    "student": student_method,
}


def cell(law: Law, documents: int, runs: int, method: Method) -> tuple[float, float, float]:
    """How often the true figure is above the interval and below it, and the width."""
    tops, bottoms, truth = simulated(law, documents, runs, seed=1000 * documents + LAWS.index(law))
    found = [method(top, bottom, run) for run, (top, bottom) in enumerate(zip(tops, bottoms, strict=True))]
    figures = tops.sum(axis=1) / bottoms.sum(axis=1)
    width = float(np.median([one.high - one.low for one in found])) / (2 * 1.96 * float(figures.std()))
    above, below = np.mean([truth > one.high for one in found]), np.mean([truth < one.low for one in found])
    return float(above), float(below), width


def words(above: float, below: float, width: float) -> str:
    """What a cell says."""
    return f"{100 * (1 - above - below):.1f} ({100 * above:.1f}, {100 * below:.1f}) {width:.2f}"


def lines(documents: list[int], runs: int, method: str) -> Iterator[str]:
    """The tables, one for each correlation and whether documents are of one length."""
    for unequal, correlation in ((True, 0.3), (True, 0.7), (False, 0.3), (False, 0.7)):
        laws = [law for law in LAWS if (law.unequal, law.correlation) == (unequal, correlation)]
        yield f"| documents | {' | '.join(law.name for law in laws)} |"
        yield f"|---:|{'---|' * len(laws)}"
        for count in documents:
            cells = [cell(law, count, runs, METHODS[method](count)) for law in laws]
            yield f"| {count} | {' | '.join(words(*one) for one in cells)} |"
        yield ""
    error = 100 * math.sqrt(0.95 * 0.05 / runs)
    yield f"{method}, {runs} runs a cell: coverage in per cent (true figure above, below) width; error {error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--documents", type=int, nargs="+", default=[2, 3, 4, 5, 6, 7, 8, 12, 20, 50])
    parser.add_argument("--method", choices=METHODS, default="peelaudit")
    given = parser.parse_args()
    for line in lines(given.documents, given.runs, given.method):
        print(line, flush=True)


if __name__ == "__main__":
    main()
