"""Weights given their codes row by row: each code the best one there is, the kernel's the loop's to the last bit."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peelaudit.network.lowbit import coordinates
from peelaudit.network.lowbit.constraints import Binary, Constraint, Integer, Scales, Ternary
from peelaudit.network.lowbit.coordinates import compensate, descend
from peelaudit.records import ScaleLayout
from tests.network.lowbit.support import ALL, ALL_NAMES

EVEN = (Binary(), Ternary(), Integer(ScaleLayout.ROW, None, 4))


def whole(low: int, high: int, *shape: int, seed: int) -> Tensor:
    """Whole numbers as floats: sums and products of a few are exact, in whatever order, and halves are met often."""
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def scales_of(*shape: int, seed: int) -> Scales:
    """Powers of two, either sign, and some zeros: groups of zeros have such."""
    powers = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])
    return Scales(powers[whole(0, 4, *shape, seed=seed).long()], whole(0, 3, *shape, seed=seed + 1) / 2)


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """Interpreted, as tests/conftest.py asks of Triton: on any machine."""
    pytest.importorskip("triton")
    return importlib.import_module("peelaudit.network.lowbit.kernels")


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    columns=st.sampled_from([1, 31, 33]),
    span=st.integers(1, 12),
    constraint=st.sampled_from(EVEN),
    data=st.data(),
)
def test_the_kernel_descends_as_the_loop_does(
    kernels: ModuleType, seed: int, columns: int, span: int, constraint: Constraint, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, span - 1))
    rows = data.draw(st.integers(1, span - first))
    large = whole(-1, 1, 2 * span, 2 * span, seed=seed)
    large = large + large.T
    large.diagonal().fill_(4.0)
    gram = large[:span, :span]  # a part of a larger one, as it is in use
    weight, slope = whole(-8, 8, rows, columns, seed=seed + 1) / 4, whole(-40, 40, span, columns, seed=seed + 2) / 4
    scales = scales_of(columns, seed=seed + 3)
    if data.draw(st.booleans()):
        scales = Scales(scales.scale[:1].expand(columns), scales.zero[:1].expand(columns))
    expected_weight, expected_slope = weight.clone(), slope.clone()
    descend(expected_weight, expected_slope, gram, first, scales, constraint)
    kernels.descend(weight, slope, gram, first, scales, constraint.levels)
    assert torch.equal(weight, expected_weight)
    assert torch.equal(slope, expected_slope)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), columns=st.sampled_from([1, 31, 33]), rows=st.integers(1, 10), data=st.data())
def test_the_kernel_compensates_as_the_loop_does(
    kernels: ModuleType, seed: int, columns: int, rows: int, data: st.DataObject
) -> None:
    constraints = data.draw(st.lists(st.sampled_from(EVEN), min_size=rows, max_size=rows))
    factor = whole(-1, 1, 2 * rows, 2 * rows, seed=seed).triu()[:rows, :rows]
    factor.diagonal().fill_(1.0)
    weight, scales = whole(-20, 20, rows, columns, seed=seed + 1) / 4, scales_of(rows, columns, seed=seed + 2)
    if data.draw(st.booleans()):  # as a factorisation on a device lies in memory, and one scale for all columns
        factor = factor.T.contiguous().T
        scales = Scales(*(one[:, :1].expand(-1, columns) for one in (scales.scale, scales.zero)))
    expected, errors = weight.clone(), torch.full_like(weight, torch.nan)
    expected_errors = compensate(expected, factor, scales, constraints)
    kernels.compensate(weight, factor, errors, scales, [one.levels for one in constraints])
    assert torch.equal(weight, expected)
    assert torch.equal(errors, expected_errors)


@pytest.mark.parametrize("constraint", ALL, ids=ALL_NAMES)
def test_no_weight_has_a_better_code_when_its_turn_is_over(constraint: Constraint) -> None:
    """Of a single row, where no other moves after it: every code is tried."""
    generator = torch.Generator().manual_seed(0)
    gram = torch.randn(8, 8, generator=generator)
    gram = gram @ gram.T + torch.eye(8)
    target, weight = (torch.randn(8, 50, generator=generator) for _ in range(2))
    scales = Scales(torch.rand(50, generator=generator) + 0.1, torch.full((50,), (constraint.levels - 1) / 2))
    slope = gram @ (target - weight)
    descend(weight[3:4], slope, gram, 3, scales, constraint)
    assert torch.allclose(slope, gram @ (target - weight), atol=1e-4)

    def objective(row: Tensor) -> Tensor:
        error = torch.cat([weight[:3], row[None], weight[4:]]) - target
        return (error * (gram @ error)).sum(dim=0)

    codes = torch.arange(constraint.levels, dtype=torch.float32)
    tried = [objective(constraint.units(code.expand(50), scales.zero) * scales.scale) for code in codes]
    assert bool((objective(weight[3]) <= torch.stack(tried).amin(dim=0) + 1e-4).all())


def test_where_kernels_cannot_be_had_the_loop_does_it_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peelaudit.network.lowbit.kernels", None)
    coordinates._kernels.cache_clear()
    with pytest.warns(UserWarning, match="step by step"):
        assert coordinates._kernels(torch.device("cuda")) is None
    coordinates._kernels.cache_clear()
    assert coordinates._kernels(torch.device("cpu")) is None
