"""Natural-gradient directions against the dense formula."""

from __future__ import annotations

import pytest
import torch

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.kronecker import INPUT_DAMPING, OUTPUT_DAMPING, Factors

CPU = torch.device("cpu")


def factors(x: torch.Tensor, g: torch.Tensor, *, biased: bool) -> Factors:
    made = Factors(x.shape[1], g.shape[1], biased=biased, device=CPU)
    for start in range(0, len(x), 7):
        made.add(x[start : start + 7], g[start : start + 7])
    return made


@pytest.mark.parametrize("biased", [False, True])
def test_the_direction_is_that_of_the_dense_formula(*, biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(40, width, generator=generator, dtype=torch.float64) for width in (5, 3))
    curvature = factors(x, g, biased=biased).curvature(40)
    if biased:
        x = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], dim=1)
    a, b, c = x.T @ x / 40, g.T @ g / 40, x.T @ g / 40
    a += INPUT_DAMPING * a.diagonal().mean() * torch.eye(len(a), dtype=a.dtype)
    b += OUTPUT_DAMPING * b.diagonal().mean() * torch.eye(len(b), dtype=b.dtype)
    torch.testing.assert_close(curvature.gradient, c)
    expected = -torch.linalg.solve(a, torch.linalg.solve(b, c.T).T)
    torch.testing.assert_close(curvature.direction(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("biased", [False, True])
def test_maps_of_the_same_inputs_share_their_moment_where_both_are_biased(*, biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, first, second = (torch.randn(40, width, generator=generator) for width in (5, 3, 4))
    leader = Factors(5, 3, biased=True, device=CPU)
    beside = Factors(5, 4, biased=biased, device=CPU, beside=leader)
    for rows in (slice(0, 30), slice(30, 40)):
        leader.add(x[rows], first[rows])
        beside.add(x[rows], second[rows])
    assert (beside.inputs is leader.inputs) == biased
    for made, alone in ((leader, factors(x, first, biased=True)), (beside, factors(x, second, biased=biased))):
        torch.testing.assert_close(made.curvature(40).direction(), alone.curvature(40).direction())


@pytest.mark.parametrize("x", [0.0, 1e-30, 1.0])
@pytest.mark.parametrize("g", [0.0, 1e-30, 1.0])
def test_a_map_that_no_gradient_reaches_or_nothing_goes_into_is_left_as_it_is(x: float, g: float) -> None:
    """1e-30 is a number, and its square in float32 none."""
    curvature = factors(torch.full((4, 2), x), torch.full((4, 3), g), biased=False).curvature(4)
    assert bool(curvature.direction().any()) == (x == g == 1.0)
    assert bool(curvature.regressed(torch.ones(2, 5, dtype=torch.float64)).any()) == (x == 1.0)


@pytest.mark.parametrize("scale", [1e-20, 1e-23, 1e-25])
def test_states_whose_squares_no_float32_holds_have_a_finite_direction(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, g = (size * torch.randn(384, width, generator=generator) for size, width in ((scale, 48), (1.0, 5)))
    assert bool(factors(x, g, biased=False).curvature(384).direction().isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_make_whole_moments(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (200 + torch.randn(400, 30, generator=generator)).to(dtype)
    g = (1e-4 * torch.randn(400, 3, generator=generator)).to(dtype)
    wide = factors(x.float(), g.float(), biased=True).curvature(400).direction()
    torch.testing.assert_close(factors(x, g, biased=True).curvature(400).direction(), wide)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(NonFiniteResult, match="curvature"):
        factors(torch.full((4, 2), torch.nan), torch.ones(4, 3), biased=False).curvature(4)


def test_a_damping_that_float32_would_lose_is_kept() -> None:
    """The moment's rank is 1, and next to it the damping is nothing in float32."""
    x, g = torch.ones(40, 64), torch.ones(40, 3)
    x[:, 0] = 3.0
    curvature = factors(x, g, biased=False).curvature(40, damping=1e-9)
    a = x.double().T @ x.double() / 40
    a += 1e-9 * a.diagonal().mean() * torch.eye(64, dtype=torch.float64)
    right = torch.arange(128, dtype=torch.float64).view(64, 2)
    torch.testing.assert_close(a @ curvature.regressed(right), right, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_a_gradient_is_that_of_its_direction(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, right = torch.randn(40, 6, generator=generator), torch.randn(6, 2, generator=generator, dtype=torch.float64)
    curvature = factors(x, x, biased=False).curvature(40)
    torch.testing.assert_close(curvature.regressed(size * right) / size, curvature.regressed(right))
    assert bool(curvature.regressed(torch.full_like(right, torch.nan)).isnan().all())
