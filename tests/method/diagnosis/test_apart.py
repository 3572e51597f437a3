"""What stands apart on a log scale."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.method.diagnosis.apart import apart


def test_one_that_is_twice_the_others() -> None:
    assert apart([0.09, 0.092, 0.185, 0.093, 0.092], 0.05) == (2,)


def test_two_the_larger_first() -> None:
    assert apart([0.1, 0.4, 0.1, 0.8, 0.11, 0.1, 0.09], 0.05) == (3, 1)


def test_sizes_that_differ_anyhow_have_none() -> None:
    assert apart([0.27, 0.31, 0.36, 0.37, 0.41], 0.05) == ()


@pytest.mark.parametrize("sizes", [[], [1.0], [1.0, 5.0], [0.0, 0.0, 1.0, 5.0]])
def test_of_fewer_than_three_none_stands_apart(sizes: list[float]) -> None:
    assert apart(sizes, 0.05) == ()


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=12), st.floats(0.01, 100))
def test_the_unit_is_nothing_to_it(sizes: list[float], unit: float) -> None:
    assert apart(sizes, 0.1) == apart([unit * size for size in sizes], 0.1) or any(
        abs(a - b) < 1e-9 for i, a in enumerate(sizes) for b in sizes[:i]
    )


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=12))
def test_never_the_smaller_half(sizes: list[float]) -> None:
    assert all(sum(size <= sizes[place] for size in sizes) > len(sizes) / 2 for place in apart(sizes, 0.01))
