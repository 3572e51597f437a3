"""How far to go: on losses whose best step is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.method.linalg.line_search import HELD_PROBES, PROBES, Probe, bracketed, by_parabolas

START = 3.0


def bowl(bottom: float, depth: float = 1.0, *, grain: float = 0.0) -> Callable[[float], float]:
    """A loss with its least value at a step; steps are rounded to multiples of `grain`."""

    def look(step: float) -> float:
        by = grain * round(step / grain) if grain else step
        return START - depth + depth * (1 - by / bottom) ** 2

    return look


def least(probes: list[Probe]) -> Probe:
    return min(probes, key=lambda probe: probe.loss)


@given(st.floats(0.02, 50.0), st.floats(0.01, 5.0))
def test_a_parabolas_bottom_is_found(first: float, depth: float) -> None:
    probes = by_parabolas(bowl(4.0, depth), first, start=START, slope=-depth / 2)
    assert len(probes) <= PROBES
    assert least(probes).loss <= START - 0.8 * depth


@given(st.floats(0.02, 50.0), st.floats(0.01, 5.0))
def test_where_short_steps_round_away_the_bottom_is_found_nearly(first: float, depth: float) -> None:
    probes = bracketed(bowl(4.1, depth, grain=2.0), first, start=START, unmoved=1e-4)
    assert len(probes) <= HELD_PROBES
    assert least(probes).loss <= START - 0.7 * depth  # at 2 or 6 it is 3/4 of it, or more


def test_a_gain_far_beyond_what_the_slope_promises_is_followed() -> None:
    """SmolLM2 in 4 bits: 16 times the first step gained; a parabola by the slope went back from there."""

    def look(step: float) -> float:
        return START if step < 10 else START - 0.1 * np.log(step / 8) if step < 300 else START + 1.0

    assert least(bracketed(look, 1.0, start=START, unmoved=1e-4)).step > 100


@pytest.mark.parametrize("loss", [START, START + 1.0, np.inf])
def test_nothing_that_helps_is_nothing_that_is_better(loss: float) -> None:
    probes = bracketed(lambda _: loss, 1.0, start=START, unmoved=1e-4)
    assert len(probes) <= HELD_PROBES
    assert not least(probes).loss < START


def test_a_step_that_is_too_far_is_followed_by_shorter_ones() -> None:
    assert least(bracketed(bowl(0.01), 1.0, start=START, unmoved=1e-4)).loss < START - 0.8


@given(st.floats(0.5, 1.8), st.floats(0.01, 5.0))
def test_a_step_that_was_the_best_elsewhere_takes_few_looks_where_it_helps(share: float, depth: float) -> None:
    probes = bracketed(bowl(4.0, depth), 4.0 * share, start=START, unmoved=1e-4, likely=True)
    assert len(probes) <= (2 if 0.85 < share < 1.05 else 4)
    assert least(probes).loss <= START - 0.9 * depth


def test_beyond_the_bottom_it_goes_back_where_the_loss_rises_faster_than_a_parabola() -> None:
    """A layer of SmolLM2 in 4 bits, whose last look was at twice the best step: two looks made a parabola of it."""

    def look(step: float) -> float:
        gains = {0.0: 0.0, 0.6: 0.11, 1.0: 0.1308, 1.6: 0.1069, 2.56: 0.0421, 4.1: -0.1385}
        return START - float(np.interp(step, [*gains], [*gains.values()]))

    found = [
        least(bracketed(look, first, start=START, unmoved=1e-4, likely=True)) for first in (0.7, 1.0, 1.5, 2.0, 2.3)
    ]
    assert min(START - probe.loss for probe in found) > 0.115


def test_a_step_that_was_the_best_elsewhere_and_does_not_help_is_followed_by_what_others_are() -> None:
    looks = [
        [probe.step for probe in bracketed(bowl(0.01), 1.0, start=START, unmoved=1e-4, likely=likely)]
        for likely in (False, True)
    ]
    assert looks[0] == looks[1]
