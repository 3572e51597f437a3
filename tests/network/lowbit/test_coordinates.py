"""Weights given their codes row by row: each code the best one there is, the kernel's the loop's to the last bit."""

from __future__ import annotations

import importlib
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
from tests.network.lowbit.support import ALL, ALL_NAMES, objective, problem, rounded

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


@pytest.mark.parametrize("constraint", [Ternary(), Integer(ScaleLayout.GROUP, 16, 3)], ids=["ternary", "groups"])
def test_a_matrix_is_rounded_by_kernels_as_by_loops(
    kernels: ModuleType, constraint: Constraint, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, gram = problem(32, 3)
    by_loops = rounded(constraint, target, gram)
    called = []
    for name in ("compensate", "descend"):
        real = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *args, real=real, name=name: (called.append(name), real(*args)))
    monkeypatch.setattr(coordinates, "_DEVICES", ("cpu",))
    by_kernels = rounded(constraint, target, gram)
    assert set(called) == {"compensate", "descend"}
    assert constraint.holds(by_kernels.T.float())
    assert objective(by_kernels, target, gram) == pytest.approx(objective(by_loops, target, gram), rel=1e-3)


@pytest.mark.parametrize("name", ["compensate", "descend"])
def test_where_a_kernel_cannot_be_compiled_loops_do_it_and_it_is_said_once(
    kernels: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    target, gram = problem(32, 3)
    by_loops = rounded(Ternary(), target, gram)
    monkeypatch.setattr(coordinates, "_DEVICES", ("cpu",))
    monkeypatch.setattr(coordinates, "_unusable", [])
    for one in ("compensate", "descend"):
        monkeypatch.setattr(kernels, one, failing)
    with pytest.warns(UserWarning, match="row by row, without Triton .*C compiler") as warned:
        assert torch.equal(rounded(Ternary(), target, gram), by_loops)
    assert len(warned) == 1

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(coordinates, "_unusable", [])
    monkeypatch.setattr(kernels, name, full)
    monkeypatch.setattr(kernels, "compensate" if name == "descend" else "descend", lambda *_: None)
    with pytest.raises(MemoryError):
        rounded(Ternary(), target, gram)
