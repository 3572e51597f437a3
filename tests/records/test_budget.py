"""What a matrix with so many bits costs."""

from __future__ import annotations

import pytest

from peelaudit.records import Estimate
from peelaudit.records.budget import Alone


@pytest.mark.parametrize(
    ("loss", "cost"),
    [
        (Estimate(0.03, -0.01, 0.05), 0.02),  # of the loss this text tells nothing
        (Estimate(0.07, 0.05, 0.09), 0.03),  # more than the predictions move is lost for certain
        (Estimate(0.05, 0.03, 0.07), 0.02),  # not for one of many
        (Estimate(0.03, 0.01, 0.05), 0.02),
        (Estimate(-0.05, -0.07, -0.03), 0.02),  # a loss that falls where predictions are moved buys nothing
    ],
)
def test_it_is_the_kl_or_what_is_lost_for_certain(loss: Estimate, cost: float) -> None:
    assert Alone(3, loss, Estimate(0.02, 0.01, 0.03)).cost == pytest.approx(cost)
