"""The tables of nf4, fp4 and fp8 against their definitions, and the scales that are read out of weights on them."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import norm

from peelaudit.network.lowbit.detection import find_grid
from peelaudit.network.lowbit.tables import Table, constraint_of
from peelaudit.records import Grid, GridKind, ScaleLayout


def entries(kind: GridKind) -> torch.Tensor:
    table = Table(ScaleLayout.TENSOR, None, kind)
    return table.units(torch.arange(float(table.levels)), torch.zeros(()))


def test_nf4_is_the_quantiles_of_a_normal_distribution() -> None:
    """8 above 0 and 7 below, from the middle of the outermost of 32 and 30 equal shares (QLoRA, section 3)."""
    outermost = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))
    above = [norm.ppf(outermost + (0.5 - outermost) * step / 8) for step in range(8)]
    below = [-norm.ppf(outermost + (0.5 - outermost) * step / 7) for step in range(7)]
    expected = torch.tensor(sorted([*above, 0.0, *below])) / max(above)
    torch.testing.assert_close(entries(GridKind.NF4), expected.float(), rtol=0, atol=1e-6)


def test_floats_are_all_finite_ones_of_their_formats() -> None:
    small = {(1 + mantissa / 2) * 2.0**exponent for exponent in range(3) for mantissa in range(2)} | {0.5}
    assert entries(GridKind.FP4).tolist() == sorted({*small, 0.0, *(-value for value in small)})
    large = {(1 + mantissa / 8) * 2.0**exponent for exponent in range(-6, 9) for mantissa in range(8)} - {480.0}
    large |= {mantissa * 2.0**-9 for mantissa in range(1, 8)}
    assert entries(GridKind.FP8).tolist() == sorted({*large, 0.0, *(-value for value in large)})


@pytest.mark.parametrize("kind", [GridKind.NF4, GridKind.FP4, GridKind.FP8])
@pytest.mark.parametrize("unused", [0, 1, 2, 4])
def test_scales_are_read_where_the_outermost_entries_are_not_used(kind: GridKind, unused: int) -> None:
    table = Table(ScaleLayout.GROUP, 32, kind)
    codes = torch.randint(unused, table.levels - unused, (8, 64), generator=torch.Generator().manual_seed(unused))
    weight = 0.013 * table.units(codes.float(), torch.zeros(()))
    assert table.holds(weight)
    assert not table.holds(weight + 1e-4 * torch.randn(8, 64, generator=torch.Generator().manual_seed(9)))


@pytest.mark.parametrize(
    ("stored", "kind", "group"),
    [
        ("compressed-tensors-fp4-g16", GridKind.FP4, 16),
        ("mxfp4-fp4-g32", GridKind.FP4, 32),
        ("fp8-float8_e4m3fn-tensor", GridKind.FP8, None),
        ("modelopt-float8_e4m3fn-row", GridKind.FP8, None),
        ("bitsandbytes-nf4-g64", GridKind.NF4, 64),
        ("MXFP4", GridKind.FP4, 32),
    ],
)
def test_declared_types_are_grids(stored: str, kind: GridKind, group: int | None) -> None:
    layout = ScaleLayout.GROUP if group else (ScaleLayout.ROW if stored.endswith("row") else ScaleLayout.TENSOR)
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    weight = constraint_of(Grid(kind, 4.0, layout, group, 0.0)).quantise(weight)
    grid = find_grid(weight, stored)
    assert grid is not None
    assert (grid.kind, grid.layout, grid.group) == (kind, layout, group)
    assert constraint_of(grid).holds(weight)


def test_a_files_own_table_is_no_nf4() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    assert find_grid(weight, "bitsandbytes-nf4-g64") is None
    assert find_grid(weight, "bitsandbytes-fp4-g64") is None
    assert find_grid(weight, "fp8-float8_e4m3fn-block") is None
    assert find_grid(weight, "fp8-float8_e5m2-tensor") is None
