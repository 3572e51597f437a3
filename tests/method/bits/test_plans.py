"""Bits given out evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.method.bits.plans import average, evenly
from peelaudit.method.bits.trials import Part


def parts(sizes: list[int]) -> list[Part]:
    return [Part(number, "mlp.down_proj", size, 1, (32,)) for number, size in enumerate(sizes, 1)]


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_one_of_the_widths_is_everywhere(width: int) -> None:
    assert evenly(parts([3, 50, 7]), (2, 3, 4, 8), width) == (width,) * 3


def test_between_two_widths_both_take_turns() -> None:
    assert evenly(parts([8] * 6), (2, 3, 4), 3.5) == (3, 4) * 3
    assert evenly(parts([8] * 6), (2, 4, 8), 3) == (2, 4) * 3
    assert evenly(parts([8] * 6), (2, 8), 4) == (2, 2, 8) * 2


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.floats(2, 8))
def test_it_is_within_the_budget_and_uses_it_up_but_for_a_part(sizes: list[int], budget: float) -> None:
    plan = evenly(parts(sizes), (2, 3, 4, 8), budget)
    spent = average(parts(sizes), plan)
    assert spent <= budget + 1e-5
    assert (budget - spent) * sum(sizes) <= 4 * max(sizes) + 1e-5
