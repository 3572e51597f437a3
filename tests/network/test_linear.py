"""Linear maps either way round, and looking at what goes through them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from peelaudit.network.linear import LinearMap, tapped


@pytest.mark.parametrize("module", [nn.Linear(3, 5), Conv1D(5, 3)])
def test_a_map_says_its_sizes_and_its_matrix_whichever_way_it_is_kept(module: nn.Module) -> None:
    linear = LinearMap("up", module, biased=True)
    assert (linear.inputs, linear.outputs) == (3, 5)
    hidden = torch.randn(4, 3)
    torch.testing.assert_close(hidden @ linear.turned(linear.weight) + linear.bias, module(hidden))
    by_inputs = torch.randn(3, 5)
    assert linear.turned(by_inputs).shape == linear.weight.shape


def test_what_a_tap_returns_stands_in_for_the_output_as_long_as_it_lasts() -> None:
    module, seen = nn.Linear(3, 3), []
    hidden = torch.randn(2, 3)
    plain = module(hidden)
    with tapped([(module, lambda given, made: made + 1)]):
        torch.testing.assert_close(module(hidden), plain + 1)
    with tapped([(module, lambda given, made: seen.append((given, made)))]):
        torch.testing.assert_close(module(hidden), plain)
    module(hidden)
    assert len(seen) == 1
    assert seen[0][0] is hidden


def test_taps_are_gone_after_an_error() -> None:
    module = nn.Linear(3, 3)
    with pytest.raises(RuntimeError), tapped([(module, lambda given, made: made + 1)]):
        module(torch.zeros(2, 4))
    assert not module._forward_hooks
