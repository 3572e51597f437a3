"""Every low-bit set: what it rounds to is in it, what is in it is read exactly, and its gradient is the identity's."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peelaudit.network.lowbit.constraints import Binary, Constraint, Integer, Ternary
from peelaudit.network.lowbit.detection import find_grid
from peelaudit.network.lowbit.tables import constraint_of
from peelaudit.records import ScaleLayout, ZeroPoint
from tests.network.lowbit.support import ALL, ALL_NAMES, CONSTRAINTS, NAMES


def noise(outputs: int = 48, inputs: int = 768, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 0.02


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=NAMES)
def test_what_it_rounds_to_is_found_to_be_low_bit(constraint: Constraint) -> None:
    grid = find_grid(constraint.quantise(noise()))
    assert grid is not None
    assert (grid.kind, grid.bits, grid.layout, grid.group) == (
        constraint.grid.kind,
        constraint.grid.bits,
        constraint.layout,
        constraint.group,
    )
    # A wider set may hold what happens to lie in a narrower one: 8 bits with a minimum, so fine that 0 is near enough.
    order = list(ZeroPoint)
    assert order.index(grid.zero) <= order.index(constraint.grid.zero)


@pytest.mark.parametrize("constraint", ALL, ids=ALL_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_on_the_grid_are_read_back(constraint: Constraint, dtype: torch.dtype) -> None:
    weight = constraint.quantise(noise().to(dtype))
    scales = constraint.read(weight)
    again = constraint.values(constraint.codes(weight, scales), scales)
    torch.testing.assert_close(again, weight, rtol=0, atol=1e-6 * float(weight.abs().max()))


@pytest.mark.parametrize("zero", ZeroPoint)
def test_integers_are_as_near_as_a_step_allows(zero: ZeroPoint) -> None:
    weight = noise()
    errors = [
        float((Integer(ScaleLayout.GROUP, 32, bits, zero).quantise(weight) - weight).square().mean())
        for bits in (2, 3, 4, 8)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert fine < coarse / 3
    assert errors[-1] < 1e-4 * float(weight.square().mean())


def test_bitnets_ternary_is_its_papers_formula() -> None:
    weight = noise()
    scale = weight.abs().mean()
    torch.testing.assert_close(Ternary().quantise(weight), (weight / scale).round().clamp(-1, 1) * scale)


def test_binary_is_the_sign_times_each_outputs_mean_size() -> None:
    weight = noise()
    torch.testing.assert_close(Binary().quantise(weight), weight.sign() * weight.abs().mean(dim=1, keepdim=True))


@pytest.mark.parametrize("constraint", ALL, ids=ALL_NAMES)
def test_a_batch_is_each_matrix_by_itself(constraint: Constraint) -> None:
    batch = torch.stack([noise(seed=seed) * (seed + 1) for seed in range(3)])
    torch.testing.assert_close(constraint.quantise(batch), torch.stack([constraint.quantise(w) for w in batch]))


@pytest.mark.parametrize("constraint", ALL, ids=ALL_NAMES)
def test_the_gradient_goes_straight_through_within_the_range_and_not_beyond(constraint: Constraint) -> None:
    weight = noise()
    scales = constraint.scales(weight)
    outlier = weight.clone()
    outlier[0, 0] = 100.0
    leaf = outlier.requires_grad_()
    rounded = constraint.straight_through(leaf, scales)
    torch.testing.assert_close(rounded.detach(), constraint.values(constraint.codes(outlier, scales), scales))
    rounded.sum().backward()
    assert leaf.grad is not None
    assert float(leaf.grad[0, 0]) == 0.0
    assert float((leaf.grad - 1).abs().le(1e-6).float().mean()) > 0.4  # ternary clips what is over its scale


@pytest.mark.parametrize("constraint", ALL, ids=ALL_NAMES)
def test_zeros_are_no_division_by_zero(constraint: Constraint) -> None:
    weight = noise()
    weight[3] = 0
    weight[5, :64] = 0
    assert bool(torch.isfinite(constraint.quantise(weight)).all())
    assert bool(torch.isfinite(constraint.quantise(torch.zeros(4, 128))).all())


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1_000),
    constraint=st.sampled_from(CONSTRAINTS),
    scale=st.sampled_from([1e-8, 1e-3, 1.0, 1e4]),
)
def test_the_set_found_in_a_matrix_holds_it(seed: int, constraint: Constraint, scale: float) -> None:
    weight = constraint.quantise(noise(16, 768, seed) * scale)
    grid = find_grid(weight)
    assert grid is not None
    found = constraint_of(grid)
    scales = found.read(weight)
    again = found.values(found.codes(weight, scales), scales)
    torch.testing.assert_close(again, weight, rtol=0, atol=1e-5 * float(weight.abs().max()))
