"""How far a block turns the residual stream."""

from __future__ import annotations

import numpy as np
import torch

from peelaudit.method.diagnosis.influence import influence


def test_it_is_nothing_for_what_is_scaled_and_most_for_what_is_turned_round() -> None:
    before = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(influence(before, 5 * before), [0, 0], atol=1e-12)
    np.testing.assert_allclose(influence(before, -before), [2, 2])


def test_it_is_one_at_a_right_angle() -> None:
    before, after = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 7.0]]])
    np.testing.assert_allclose(influence(before, after), [1])
