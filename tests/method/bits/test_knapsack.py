"""The cheapest plan within a budget: that of trying all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peelaudit.method.bits import knapsack
from peelaudit.method.bits.knapsack import cheapest

WIDTHS = (2, 3, 4, 8)


def taken(sizes: list[int], plan: tuple[int, ...]) -> int:
    return sum(size * WIDTHS[option] for size, option in zip(sizes, plan, strict=True))


def cost(costs: np.ndarray, plan: tuple[int, ...]) -> float:
    return float(sum(costs[part, option] for part, option in enumerate(plan)))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], np.ndarray, int]:
    """Sizes, costs (some below 0, none ordered) and a budget, which may be too small or more than enough."""
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=5))
    figures = st.floats(-1, 3, allow_nan=False, width=32)
    costs = draw(st.lists(figures, min_size=4 * len(sizes), max_size=4 * len(sizes)))
    budget = draw(st.integers(1, 9 * sum(sizes)))
    return sizes, np.array(costs).reshape(len(sizes), 4), budget


@settings(max_examples=300, deadline=None)
@given(problems())
def test_it_is_the_cheapest_of_all_plans(problem: tuple[list[int], np.ndarray, int]) -> None:
    sizes, costs, budget = problem
    every = itertools.product(range(4), repeat=len(sizes))
    within = [plan for plan in every if taken(sizes, plan) <= budget]
    found = cheapest(sizes, WIDTHS, costs, budget)
    if not within:
        assert found is None
        return
    assert found is not None
    assert taken(sizes, found) <= budget
    assert cost(costs, found) == pytest.approx(min(cost(costs, plan) for plan in within), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_a_coarse_table_stays_within_the_budget(problem: tuple[list[int], np.ndarray, int]) -> None:
    sizes, costs, budget = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "MOST_UNITS", 40)
        found = cheapest(sizes, WIDTHS, costs, budget)
    assert found is None or taken(sizes, found) <= budget


def test_a_large_network_s_budget_is_nearly_used_up() -> None:
    generator = np.random.default_rng(0)
    sizes = [int(size) for size in generator.integers(30_000_000, 200_000_000, size=160)]
    costs = generator.random((160, 1)) * np.array([1.0, 0.25, 0.06, 0.0])
    budget = 3 * sum(sizes)
    found = cheapest(sizes, WIDTHS, costs, budget)
    assert found is not None
    assert 0.99 * budget < taken(sizes, found) <= budget
    assert cost(costs, found) < 0.9 * costs[:, 1].sum()


def test_a_coarse_table_finds_a_plan_wherever_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knapsack, "MOST_UNITS", 2)
    assert cheapest([3, 5, 7], WIDTHS, np.zeros((3, 4)), 30) == (0, 0, 0)
    assert cheapest([3, 5, 7], WIDTHS, np.zeros((3, 4)), 29) is None
