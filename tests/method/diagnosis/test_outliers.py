"""Which layers stand out of their gaps' spread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from peelaudit.method.diagnosis.outliers import BulkSlopes, Gaps, ScaleSlopes, Yardstick, standing_out, suspicion
from peelaudit.method.statistics.panel import Panel

PANEL = Panel.of(
    {"fit": np.arange(3), "select": np.arange(3), "held_out": np.arange(40)}, positions=11, resamples=500, seed=0
)


def gains(*gaps: float, noise: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    """[sequences] nats that these gaps, nats/token, are the means of."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=46)
    return [10 * (gap + noise * (shared + rng.normal(size=46))) for gap in gaps]


@pytest.mark.parametrize(
    ("gaps", "named"),
    [
        ((0.15, 0.15, 0.16, 0.15, 0.15), ()),
        ((0.166, 0.155, 0.155, 0.150, 0.128), ()),
        ((0.62, 0.38, 0.29, 0.25, 0.23), (1,)),
        ((0.18, 0.18, 0.22, 0.26, 0.32), (5,)),
        ((0.0, 0.0, 0.0, 0.0, 0.0), ()),
        ((0.0, 0.0, 5e-5, 0.0, 0.0), ()),
        ((0.0, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0), (8, 4)),
        ((0.4, 0.1), ()),
        ((0.4,), ()),
    ],
)
def test_layers_are_named_for_standing_out_of_the_spread(gaps: tuple[float, ...], named: tuple[int, ...]) -> None:
    assert standing_out(Gaps(PANEL, gains(*gaps))) == named


def test_what_is_known_is_left_out_and_its_neighbours_are_not_named() -> None:
    gaps = gains(0.0, 0.3, 0.9, 0.2, 0.0, 0.0, 0.0, 0.4, 0.0)
    assert standing_out(Gaps(PANEL, gaps)) == (3, 8)
    assert standing_out(Gaps(PANEL, gaps), suspects=[3]) == (8,)
    assert standing_out(Gaps(PANEL, gaps), suspects=[3, 8]) == ()


def test_low_bit_layers_may_differ_more() -> None:
    """The undamaged bitllama-3M after one step, its largest gap a fifth larger."""
    healthy = gains(0.016, 0.04, 0.0, 0.0, 0.023, 0.05, 0.08, 0.035)
    assert standing_out(Gaps(PANEL, healthy)) == (7,)
    assert standing_out(Gaps(PANEL, healthy, low_bit=True)) == ()
    assert standing_out(Gaps(PANEL, gains(0.016, 0.04, 0.3, 0.0, 0.023, 0.05, 0.06, 0.035), low_bit=True)) == (3,)


def test_one_step_names_no_low_bit_layer_and_ranks_them() -> None:
    """The undamaged bitllama-3M on another draw of text; after two or three steps block 7 has 0.063, block 1 0.055."""
    healthy = gains(0.010, 0.022, 0.002, 0.001, 0.016, 0.030, 0.050, 0.019)
    assert standing_out(Gaps(PANEL, healthy, low_bit=True)) == (7,)
    one_step = Gaps(PANEL, healthy, low_bit=True, one_step=True)
    assert standing_out(one_step) == ()
    assert 0 < suspicion(one_step).max() < 1
    assert int(suspicion(one_step).argmax()) == 6
    assert standing_out(Gaps(PANEL, healthy, one_step=True)) == (7,)


def test_another_damaged_layer_does_not_hide_one() -> None:
    for sick in ((2, 7), (2, 5)):
        gaps = [0.3 if layer in sick else 0.01 for layer in range(1, 11)]
        gaps[sick[0] - 1] = 0.35
        assert standing_out(Gaps(PANEL, gains(*gaps))) == sick


def test_at_most_three_are_named() -> None:
    assert len(standing_out(Gaps(PANEL, gains(*([0.0] * 9 + [0.5]) * 4)))) == 3


@pytest.mark.parametrize(
    ("gaps", "leading"),
    [
        ((0.092, 0.080, 0.067, 0.044), (1,)),
        ((0.08, 0.01, 0.08, 0.01), (1, 3)),
        ((0.08, 0.08, 0.08, 0.01), ()),
        ((0.0, 0.0, 0.0, 0.0), ()),
        ((*[0.05] * 3, *[0.01] * 20), (1, 2, 3)),
        ((*[0.05] * 4, *[0.01] * 20), ()),
        ((0.4, 0.1), (1,)),
        ((0.4,), ()),
    ],
)
def test_the_layers_that_gain_most_lead_where_few_tie(gaps: tuple[float, ...], leading: tuple[int, ...]) -> None:
    assert Gaps(PANEL, gains(*gaps)).leading() == leading


def test_a_gap_leads_only_beyond_chance() -> None:
    assert Gaps(PANEL, gains(0.05, 0.0, 0.0, 0.0, noise=0.5)).leading() == ()


def test_healthy_layers_are_hardly_ever_named() -> None:
    rng = np.random.default_rng(1)
    draws = [
        standing_out(Gaps(PANEL, gains(*(0.2 * (1 + 0.1 * rng.normal(size=12))), noise=0.1, seed=i)))
        for i in range(100)
    ]
    assert sum(map(bool, draws)) <= 5


def slopes(*means: float, noise: float = 1.0, seed: int = 0) -> list[np.ndarray]:
    """[sequences] nats of these means, nats/token, with this standard deviation of a token."""
    rng = np.random.default_rng(seed)
    return [10 * mean + noise * 10**0.5 * rng.normal(size=46) for mean in means]


@pytest.mark.parametrize(
    ("means", "named"),
    [
        ((0.0, 0.0, 0.0, 0.0, 0.0), ()),
        ((0.0, 0.8, 0.0, 0.0, 0.0), (2,)),
        ((0.0, 0.0, 0.0, -0.8, 0.0, 0.0), (4,)),
        ((0.5, -0.5, 0.5, -0.8, 0.5, -0.5), ()),
        ((0.0, 0.8, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0), (2,)),
        ((0.0, 0.8, -0.79, 0.0, 0.0, 0.0, 0.0, 0.0), ()),  # of two that tie, neither is told to be the one
    ],
)
def test_a_scale_slope_stands_out_either_way(means: tuple[float, ...], named: tuple[int, ...]) -> None:
    assert standing_out(ScaleSlopes(PANEL, slopes(*means))) == named


@pytest.mark.parametrize(
    ("means", "named"),
    [
        ((0.0, 0.0, 0.0, 0.0, 0.0), ()),
        ((0.0, 0.8, 0.0, 0.0, 0.0), (2,)),
        ((0.0, 0.0, 0.0, -0.8, 0.0, 0.0), ()),
        ((0.5, -0.5, 0.5, 0.8, 0.5, -0.5), ()),
        ((0.0, 0.0, 0.1, 0.0, 0.1, 0.0, 0.8, 0.0, 0.1, 0.0, -3.0, 0.1), (7,)),
    ],
)
def test_a_bulk_slope_stands_out_above_whatever_one_layer_has_below(
    means: tuple[float, ...], named: tuple[int, ...]
) -> None:
    assert standing_out(BulkSlopes(PANEL, slopes(*means, noise=0.3))) == named


def test_scale_slopes_are_measured_in_their_own_spread() -> None:
    """The unit of the loss doesn't matter, and one layer that varies more may be farther from 0."""
    rng = np.random.default_rng(3)
    drawn = [10 * mean + 10**0.5 * rng.normal(size=46) for mean in (0.0, 0.0, 0.8, 0.0, 0.0, 0.0)]
    small = [1e-3 * one for one in drawn]
    assert standing_out(ScaleSlopes(PANEL, drawn)) == standing_out(ScaleSlopes(PANEL, small)) == (3,)
    assert standing_out(ScaleSlopes(PANEL, [*drawn[:2], 10 * (drawn[0] + 0.8), *drawn[3:]])) == ()
    assert standing_out(ScaleSlopes(PANEL, [np.zeros(46)] * 6)) == ()


@pytest.mark.parametrize("yardstick", [ScaleSlopes, BulkSlopes])
def test_layers_without_a_slope_are_hardly_ever_named(yardstick: Callable[..., Yardstick]) -> None:
    draws = [standing_out(yardstick(PANEL, slopes(*[0.0] * 12, seed=seed))) for seed in range(100)]
    assert sum(map(bool, draws)) <= 5


def test_suspicion_keeps_the_order_of_the_figure_and_is_1_where_naming_begins() -> None:
    gaps = Gaps(PANEL, gains(0.2, 0.21, 0.8, 0.3, 0.19, 0.2, -0.1))
    found = suspicion(gaps)
    assert list(np.argsort(-found)[:4]) == [2, 3, 1, 0]
    assert found[2] > 1
    assert standing_out(gaps) == (3,)
    assert found.min() == 0
    assert suspicion(gaps, suspects=[3])[3] < 1
    assert standing_out(gaps, suspects=[3]) == ()
    assert not suspicion(Gaps(PANEL, gains(0.0, 0.0))).any()
    assert not suspicion(gaps, suspects=range(1, 8)).any()
