"""The sentence on a budget: whether it is better than the same bits given out evenly, or not, or can't be told."""

from __future__ import annotations

import pytest

from peelaudit.auditing.thrift import headline
from peelaudit.records import Estimate
from peelaudit.records.budget import Rounded
from tests.factories import make_estimate

CHOSEN = Rounded(2.996, 3.5, make_estimate(2.1), Estimate(0.2, 0.15, 0.25), make_estimate(0.2, 0.01))


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (Estimate(0.05, 0.02, 0.08), ", 0.0500 (0.0200 to 0.0800) less than 3 bits everywhere"),
        (Estimate(-0.05, -0.08, -0.02), ", 0.0500 (0.0200 to 0.0800) more than 3 bits everywhere: take those"),
        (
            Estimate(0.05, -0.01, 0.08),
            ", no less, as far as this text tells, than 3 bits everywhere: +0.0500 (-0.0100..+0.0800)",
        ),
    ],
)
def test_a_budget_is_said_to_be_better_worse_or_neither(gain: Estimate, words: str) -> None:
    found = headline(CHOSEN, gain, (3, 3, 3), same=False)
    assert found == f"3.00 bits a weight cost +0.2000 nats/token (+0.1500..+0.2500){words}"


def test_two_widths_are_said_to_take_turns() -> None:
    assert "less than 3 or 4 bits in turns" in headline(CHOSEN, Estimate(0.05, 0.02, 0.08), (3, 4, 3), same=False)


def test_where_nothing_better_was_found_it_says_so() -> None:
    found = headline(CHOSEN, Estimate(0.0, 0.0, 0.0), (3, 3), same=True)
    assert "3 bits everywhere, for no other way to give them out was found" in found
