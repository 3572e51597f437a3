"""Grids are found from values alone, in every layout, and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peelaudit.network.lowbit.detection import find_grid
from peelaudit.records import GridKind, ScaleLayout


def noise(outputs: int = 96, inputs: int = 512, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 0.02


def grouped(weight: torch.Tensor, group: int, levels: int, *, symmetric: bool) -> torch.Tensor:
    """Rounded to nearest on `levels` values, a scale (and an offset) for each group."""
    rows = weight.reshape(-1, group)
    if symmetric:
        scale = rows.abs().amax(dim=1, keepdim=True) / (levels // 2 - 1)
        return ((rows / scale).round() * scale).reshape(weight.shape)
    low, high = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
    scale = (high - low) / (levels - 1)
    return (((rows - low) / scale).round() * scale + low).reshape(weight.shape)


def binary(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.where(weight >= 0, scale, -scale)


def ternary(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """BitNet b1.58's: round(W / scale) within -1 and 1, times scale."""
    return (weight / scale).round().clamp(-1, 1) * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ternary_and_binary_per_tensor_and_per_output_channel(dtype: torch.dtype) -> None:
    weight = noise()
    whole, rows = weight.abs().mean(), weight.abs().mean(dim=1, keepdim=True)
    rows = rows * torch.linspace(0.5, 2, len(rows))[:, None]
    found = find_grid(ternary(weight, whole).to(dtype))
    assert found is not None
    assert (found.kind, found.layout, found.group) == (GridKind.TERNARY, ScaleLayout.TENSOR, None)
    assert found.bits == math.log2(3)
    assert found.zero_fraction == pytest.approx(float((ternary(weight, whole) == 0).float().mean()))
    found = find_grid(ternary(weight, rows).to(dtype))
    assert found is not None
    assert (found.kind, found.layout) == (GridKind.TERNARY, ScaleLayout.ROW)
    found = find_grid(binary(weight, rows).to(dtype))
    assert found is not None
    assert (found.kind, found.bits, found.layout, found.zero_fraction) == (GridKind.BINARY, 1.0, ScaleLayout.ROW, 0.0)


@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 64), (4, 32), (4, 128), (4, 64)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_in_groups(bits: int, group: int, symmetric: bool) -> None:
    found = find_grid(grouped(noise(), group, 2**bits, symmetric=symmetric))
    assert found is not None
    assert (found.layout, found.group) == (ScaleLayout.GROUP, group)
    three = bits == 2 and symmetric  # -s, 0, s are three of the four levels
    assert (found.kind, found.bits) == ((GridKind.TERNARY, math.log2(3)) if three else (GridKind.INTEGER, bits))


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_per_output_channel(bits: int) -> None:
    found = find_grid(grouped(noise(inputs=1024), 1024, 2**bits, symmetric=False))
    assert found is not None
    assert (found.kind, found.bits, found.layout) == (GridKind.INTEGER, bits, ScaleLayout.ROW)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    outputs=st.integers(2, 80),
    inputs=st.sampled_from([16, 32, 48, 64, 256]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_floats_are_on_no_grid(seed: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    assert find_grid(noise(outputs, inputs, seed).to(dtype)) is None


def test_one_weight_off_the_grid_is_no_grid() -> None:
    weight = ternary(noise(), noise().abs().mean())
    weight[77, 300] *= 1.01
    found = find_grid(weight)
    assert found is None or found.layout is not ScaleLayout.TENSOR


def test_uneven_levels_are_no_integers() -> None:
    levels = torch.tensor(
        [-1.0, -0.69, -0.52, -0.39, -0.28, -0.18, -0.09, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1]
    )
    codes = torch.randint(0, 16, (64, 256), generator=torch.Generator().manual_seed(0))
    assert find_grid(levels[codes]) is None


@pytest.mark.parametrize("weight", [torch.zeros(8, 64), torch.ones(8, 64), torch.ones(64), torch.empty(0, 4)])
def test_constants_vectors_and_nothing_are_on_no_grid(weight: torch.Tensor) -> None:
    assert find_grid(weight) is None


@pytest.mark.parametrize("code", ["int4", "ternary", "nf4"])
def test_groups_of_which_a_rows_last_is_shorter_are_no_grid(code: str) -> None:
    assert find_grid(noise(64, 64), f"gptq-{code}-g33") is None
    assert find_grid(noise(64, 66), f"gptq-{code}-g33") is not None


def test_a_short_group_of_many_levels_is_told_by_the_files_type() -> None:
    weight = grouped(noise(), 32, 256, symmetric=True)
    assert find_grid(weight) is None
    found = find_grid(weight, "Q8_0")
    assert found is not None
    assert (found.bits, found.group) == (8, 32)
