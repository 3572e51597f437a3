"""Intervals: coverage by simulation, pairing, and agreement with libraries and computations by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from peelaudit.method.statistics.bootstrap import ClusterBootstrap, student_quantile

Array = NDArray[np.float64]
SEQUENCES = 10
"""Of each document."""


def documents(rng: np.random.Generator, count: int, correlation: float = 0.3) -> Array:
    """[count * SEQUENCES] losses of mean 0 and variance 1, correlated within a document."""
    shared = np.repeat(rng.normal(size=count), SEQUENCES)
    return math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * rng.normal(size=count * SEQUENCES)


def coverage(clusters: NDArray[np.int64], count: int, rounds: int) -> float:
    """How often the interval holds the true mean, 0."""
    rng = np.random.default_rng(0)
    bootstrap = ClusterBootstrap(clusters, resamples=600, seed=0)
    ones = np.ones(count * SEQUENCES)
    estimates = [bootstrap.ratio(documents(rng, count), ones) for _ in range(rounds)]
    return float(np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]))


def test_by_document_an_interval_covers_what_it_says_and_by_sequence_far_less() -> None:
    by_document = np.repeat(np.arange(50), SEQUENCES)
    assert 0.92 < coverage(by_document, 50, 600) < 0.98
    assert coverage(np.arange(500), 50, 300) < 0.8


@pytest.mark.parametrize("count", [5, 8, 20])
def test_few_documents_are_covered_too(count: int) -> None:
    """No percentile interval of n clusters covers more than 1 - 2^(1 - n): 94 % for 5, 75 % for 3."""
    assert coverage(np.repeat(np.arange(count), SEQUENCES), count, 600) > 0.91


def test_differences_are_paired_and_so_are_narrower() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), SEQUENCES)
    bootstrap = ClusterBootstrap(clusters, resamples=1000, seed=0)
    first = 3 + documents(rng, 30)
    second = first - 0.1 + 0.05 * documents(rng, 30)
    ones = np.ones(len(first))
    of_first, of_second, of_difference = (bootstrap.ratio(x, ones) for x in (first, second, first - second))
    assert of_difference.value == pytest.approx(of_first.value - of_second.value)
    assert of_difference.high - of_difference.low < 0.2 * (of_first.high - of_first.low)
    assert of_difference.low > 0


def test_the_seed_decides_the_interval_but_not_the_value() -> None:
    values, clusters = documents(np.random.default_rng(0), 12), np.repeat(np.arange(12), SEQUENCES)
    ones = np.ones(len(values))
    first, again, other = (
        ClusterBootstrap(clusters, resamples=500, seed=seed).ratio(values, ones) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.value == other.value
    assert (first.low, first.high) != (other.low, other.high)


def test_a_ratio_is_that_of_sums_not_the_mean_of_ratios() -> None:
    bootstrap = ClusterBootstrap(np.arange(3), resamples=200, seed=0)
    estimate = bootstrap.ratio([1.0, 2.0, 9.0], [1.0, 1.0, 4.0])
    assert estimate.value == 2.0
    assert 1.0 <= estimate.low <= estimate.value <= estimate.high <= 2.25


def test_without_few_clusters_to_widen_for_the_interval_is_scipys() -> None:
    """With 2,000 clusters the expansion is under a thousandth: the percentile interval of scipy's own draws."""
    rng = np.random.default_rng(0)
    top, bottom = rng.gamma(2.0, size=2000), rng.uniform(1, 3, size=2000)
    ours = ClusterBootstrap(np.arange(2000), resamples=4000, seed=0).ratio(top, bottom)
    theirs = scipy.stats.bootstrap(
        (top, bottom),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(top.sum() / bottom.sum())
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)


@pytest.mark.parametrize("count", [8, 30])
def test_the_expanded_interval_of_a_mean_is_students(count: int) -> None:
    """Normal data, equal clusters: mean ± t s / sqrt(n), to what the skewness of the draws leaves."""
    values = scipy.stats.norm.ppf((np.arange(count) + 0.5) / count)
    estimate = ClusterBootstrap(np.arange(count), resamples=20_000, seed=0).ratio(values, np.ones(count))
    half = scipy.stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count)
    assert estimate.high == pytest.approx(half, rel=0.15)
    assert estimate.low == pytest.approx(-half, rel=0.15)


@pytest.mark.parametrize("freedom", [*range(1, 12), 20, 50, 1000])
def test_students_quantile_is_scipys(freedom: int) -> None:
    exact = scipy.stats.t.ppf(0.975, freedom)
    assert student_quantile(0.975, freedom) == pytest.approx(exact, rel=1e-9 if freedom < 3 else 7e-3)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.5, 1e6)), min_size=2, max_size=30), st.integers(0, 99))
def test_the_value_lies_in_its_interval_and_the_order_of_sequences_is_nothing(
    sums: list[tuple[float, float]], seed: int
) -> None:
    top, bottom = np.array(sums).T
    clusters = np.arange(len(sums)) % max(2, len(sums) // 2)
    order = np.random.default_rng(seed).permutation(len(sums))
    plain = ClusterBootstrap(clusters, resamples=100, seed=seed).ratio(top, bottom)
    mixed = ClusterBootstrap(clusters[order], resamples=100, seed=seed).ratio(top[order], bottom[order])
    assert plain.low <= plain.value <= plain.high
    size = max(1.0, float(np.abs(top / bottom).max()))
    for name in ("value", "low", "high"):
        assert getattr(mixed, name) == pytest.approx(getattr(plain, name), abs=1e-9 * size)


def test_sequences_that_are_all_alike_leave_no_doubt() -> None:
    estimate = ClusterBootstrap(np.arange(4), resamples=100, seed=0).ratio([2.0] * 4, [1.0] * 4)
    assert (estimate.low, estimate.value, estimate.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("clusters", [[], [7], [3, 3, 3]])
def test_less_than_two_clusters_are_refused(clusters: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        ClusterBootstrap(np.array(clusters, dtype=np.int64), resamples=100, seed=0)


@pytest.mark.parametrize(
    ("top", "bottom"),
    [
        ([1.0, math.nan], [1.0, 1.0]),
        ([1.0, math.inf], [1.0, 1.0]),
        ([1.0, -math.inf], [1.0, 1.0]),
        ([1.0, 1.0], [1.0, math.nan]),
        ([1.0, 1.0], [math.inf, 1.0]),
        ([1.0, 1.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0, 1.0], [-1.0, -1.0]),
        ([1.7e308, 1.7e308], [1.0, 1.0]),
        ([1.0, 1.0], [1e-310, 1e-310]),
    ],
)
def test_what_is_not_finite_is_refused(top: list[float], bottom: list[float]) -> None:
    with pytest.raises(FloatingPointError):
        ClusterBootstrap(np.arange(2), resamples=100, seed=0).ratio(top, bottom)
