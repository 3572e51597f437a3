"""Intervals: coverage by simulation, pairing, what is nothing to them, and agreement with libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from peelaudit.method.statistics.bootstrap import ClusterBootstrap, student_quantile
from peelaudit.records import Estimate

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


def unequal(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """[count] sums over documents of 1 to 30 sequences, and how many these are. What sequences differ by is exponential
    and seven tenths of it their document's: the mean is 0.
    """
    lengths = np.clip(rng.lognormal(math.log(4), 1, size=count).round(), 1, 30)
    own = rng.gamma(lengths) - lengths
    return lengths * math.sqrt(0.7) * (rng.exponential(size=count) - 1) + math.sqrt(0.3) * own, lengths


def test_by_document_an_interval_covers_what_it_says_and_by_sequence_far_less() -> None:
    by_document = np.repeat(np.arange(50), SEQUENCES)
    assert 0.92 < coverage(by_document, 50, 600) < 0.98
    assert coverage(np.arange(500), 50, 300) < 0.8


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 20])
def test_few_documents_are_covered_too(count: int) -> None:
    """No percentile interval of n clusters covers more than 1 - 2^(1 - n): 94 % for 5, 75 % for 3."""
    assert coverage(np.repeat(np.arange(count), SEQUENCES), count, 600) > 0.93


@pytest.mark.parametrize("count", [3, 8, 20])
def test_skewed_documents_of_unequal_length_are_covered(count: int) -> None:
    """Percentile intervals hold 70, 89 and 91 % of these."""
    rng = np.random.default_rng(0)
    bootstrap = ClusterBootstrap(np.arange(count), resamples=600, seed=0)
    estimates = [bootstrap.ratio(*unequal(rng, count)) for _ in range(1500)]
    above = float(np.mean([estimate.high < 0 for estimate in estimates]))
    below = float(np.mean([estimate.low > 0 for estimate in estimates]))
    assert above + below < 0.075
    assert below < 0.025


def test_an_interval_reaches_further_to_the_side_of_the_rare_documents() -> None:
    values = np.array([0.0, 0.1, 0.2, 0.1, 0.0, 0.3, 0.1, 0.2, 0.1, 1.5])
    estimate = ClusterBootstrap(np.arange(10), resamples=2000, seed=0).ratio(values, np.ones(10))
    mirrored = ClusterBootstrap(np.arange(10), resamples=2000, seed=0).ratio(-values, np.ones(10))
    assert estimate.high - estimate.value > 2 * (estimate.value - estimate.low)
    assert -mirrored.low == pytest.approx(estimate.high, rel=0.2)


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
    assert estimate.low <= estimate.value <= estimate.high


def test_of_many_clusters_the_interval_is_scipys() -> None:
    """With 2,000 clusters what is done for few is under a thousandth, and the BCa interval the same to second order."""
    rng = np.random.default_rng(0)
    top, bottom = rng.gamma(2.0, size=2000), rng.uniform(1, 3, size=2000)
    ours = ClusterBootstrap(np.arange(2000), resamples=4000, seed=0).ratio(top, bottom)
    theirs = scipy.stats.bootstrap(
        (top, bottom),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(top.sum() / bottom.sum())
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)


@pytest.mark.parametrize(("count", "most"), [(8, 1.3), (30, 1.1)])
def test_the_interval_of_an_even_mean_is_hardly_wider_than_students(count: int, most: float) -> None:
    values = scipy.stats.norm.ppf((np.arange(count) + 0.5) / count)
    estimate = ClusterBootstrap(np.arange(count), resamples=20_000, seed=0).ratio(values, np.ones(count))
    half = scipy.stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count)
    assert 0.98 * half < estimate.high < most * half
    assert 0.98 * half < -estimate.low < most * half


def test_unequal_clusters_tell_less() -> None:
    """The same ten figures, nine tenths of whose tokens are of one document."""
    values = np.array([0.1, 0.4, 0.2, 0.3, 0.2, 0.1, 0.3, 0.4, 0.2, 0.3])
    sizes = np.array([1.0] * 9 + [81.0])
    bootstrap = ClusterBootstrap(np.arange(10), resamples=2000, seed=0)
    even, uneven = (bootstrap.ratio(values * size, size) for size in (np.ones(10), sizes))
    assert uneven.high - uneven.low > 2 * (even.high - even.low)


def test_what_one_cluster_alone_shows_is_not_held_for_all() -> None:
    """A third of the draws are without it and have no spread; the interval is wide, finite, and reaches 0."""
    values = np.zeros(10)
    values[3] = 1.0
    estimate = ClusterBootstrap(np.arange(10), resamples=2000, seed=0).ratio(values, np.ones(10))
    assert estimate.low < 0.01
    assert 0.4 < estimate.high < 2


@pytest.mark.parametrize("freedom", [1, 1.01, 1.5, 2, 2.7, 3, 4, 7.3, 12, 20, 50, 1000])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.9972])
def test_students_quantile_is_scipys(freedom: float, probability: float) -> None:
    exact = scipy.stats.t.ppf(probability, freedom)
    assert student_quantile(probability, freedom) == pytest.approx(exact, rel=1e-7, abs=1e-12)


SUMS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.5, 1e6)), min_size=2, max_size=30)
EXACT = st.lists(st.tuples(st.integers(-1000, 1000), st.integers(1, 1000)), min_size=2, max_size=30)


@given(SUMS, st.integers(0, 99))
def test_the_value_lies_in_its_interval_and_the_order_of_sequences_is_nothing(
    sums: list[tuple[float, float]], seed: int
) -> None:
    top, bottom = np.array(sums).T
    clusters = np.arange(len(sums)) % max(2, len(sums) // 2)
    order = np.random.default_rng(seed).permutation(len(sums))
    plain = ClusterBootstrap(clusters, resamples=100, seed=seed).ratio(top, bottom)
    mixed = ClusterBootstrap(clusters[order], resamples=100, seed=seed).ratio(top[order], bottom[order])
    assert plain.low <= plain.value <= plain.high
    assert mixed.value == pytest.approx(plain.value, abs=1e-9 * float(np.abs(top / bottom).max()))


@given(SUMS, st.integers(0, 99))
def test_the_order_of_documents_is_nothing(sums: list[tuple[float, float]], seed: int) -> None:
    top, bottom = np.array(sums).T
    order = np.random.default_rng(seed).permutation(len(sums))
    bootstrap = ClusterBootstrap(np.arange(len(sums)), resamples=100, seed=seed)
    assert bootstrap.ratio(top[order], bottom[order]) == bootstrap.ratio(top, bottom)


@given(EXACT, st.sampled_from([2.0**-900, 2.0**-3, 2.0**4, 2.0**900]), st.sampled_from([2.0**-40, 2.0**40]))
def test_the_unit_is_nothing(sums: list[tuple[int, int]], unit: float, size: float) -> None:
    top, bottom = np.array(sums, dtype=np.float64).T
    bootstrap = ClusterBootstrap(np.arange(len(sums)), resamples=100, seed=0)
    plain, other = bootstrap.ratio(top, bottom), bootstrap.ratio(top * unit, bottom * size)
    for name in ("value", "low", "high"):
        assert getattr(other, name) == getattr(plain, name) * unit / size


@given(SUMS)
def test_no_difference_at_all_leaves_no_doubt(sums: list[tuple[float, float]]) -> None:
    bottom = np.array(sums)[:, 1]
    estimate = ClusterBootstrap(np.arange(len(sums)), resamples=100, seed=0).ratio(np.zeros(len(sums)), bottom)
    assert estimate == Estimate(0.0, 0.0, 0.0)


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
        ([1.0, 1.0], [-1.0, 3.0]),
        ([1.0, 2.0], [0.0, 3.0]),
        ([1.7e308, 1.7e308], [1.0, 1.0]),
        ([1.0, 1.0], [1e-310, 1e-310]),
    ],
)
def test_what_is_not_finite_is_refused(top: list[float], bottom: list[float]) -> None:
    with pytest.raises(FloatingPointError):
        ClusterBootstrap(np.arange(2), resamples=100, seed=0).ratio(top, bottom)
