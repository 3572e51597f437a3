"""Where layers' searches for the length of their first step begin."""

from __future__ import annotations

import pytest

from peelaudit.method.refinement.reach import TOGETHER, Reach, likely_first


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ((), None),
        ((None,), None),
        ((2.0,), 2.0),
        ((2.0, 3.0), 3.0),
        ((2.0, 3.0, None), 3.0),
        ((None, None, 3.0), 3.0),
        ((2.0, *(float(place) for place in range(3, 11))), 2.0),  # the second run begins
        ((2.0, *(float(place) for place in range(3, 12))), 11.0),
        ((2.0, *(float(place) for place in range(3, 11)), None), 2.0),
        ((None, 3.0, *(None,) * 7, None, 5.0), 5.0),
        ((None, 3.0, *(None,) * 7, None), 3.0),
    ],
)
def test_a_search_begins_where_that_of_the_layer_above_ended_and_a_run_where_the_first_did(
    before: tuple[float | None, ...], expected: float | None
) -> None:
    assert TOGETHER == 8
    assert likely_first(before) == expected


def test_where_looks_are_not_thinned_each_layer_is_by_itself() -> None:
    assert (Reach().together, Reach(thinned=4).together) == (1, TOGETHER)
