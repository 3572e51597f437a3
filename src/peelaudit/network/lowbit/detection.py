"""Whether a matrix's weights lie on a low-bit grid, told by the values: at most 2, 3 or 2^b distinct ones in each
scale group.

A grid is a scale times whole numbers, one scale for the whole matrix, for each output channel, or for each group of
neighbouring inputs of an output channel. Weights that share a code and a scale are equal to the last bit, or to
float32's rounding where a file was dequantised, so that counting distinct values in a group finds the grid. It takes
groups at least twice as long as the grid has levels: a shorter one holds few values in any case.

Where the file says how it is packed (GGUF's types, a quantization_config), that is taken instead: it knows grids that
can't be seen so, as 8-bit groups of 32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from peelaudit.checkpoints.quantized import PackedType
from peelaudit.network.lowbit.tables import TABLE_BITS, constraint_of
from peelaudit.records import Grid, GridKind, ScaleLayout, ZeroPoint

__all__ = ["GGUF_GRIDS", "GGUF_TABLES", "find_grid"]

GROUPS = (256, 128, 64, 32, 16)
"""Group lengths that are tried, in inputs."""

BITS = (2, 3, 4, 8)
"""Widths of integer grids that are told apart."""

GGUF_GRIDS: Mapping[str, tuple[int, int, ZeroPoint]] = {
    "Q4_0": (4, 32, ZeroPoint.SYMMETRIC),
    "Q4_1": (4, 32, ZeroPoint.FREE),
    "Q5_0": (5, 32, ZeroPoint.SYMMETRIC),
    "Q5_1": (5, 32, ZeroPoint.FREE),
    "Q8_0": (8, 32, ZeroPoint.SYMMETRIC),
    "Q2_K": (2, 16, ZeroPoint.FREE),
    "Q3_K": (3, 16, ZeroPoint.SYMMETRIC),
    "Q4_K": (4, 32, ZeroPoint.FREE),
    "Q5_K": (5, 32, ZeroPoint.FREE),
    "Q6_K": (6, 16, ZeroPoint.SYMMETRIC),
}
"""ggml's integer types: bits, the length of a group with a scale of its own, and whether it has a minimum too
(llama.cpp, ggml-common.h).
"""

GGUF_TABLES: Mapping[str, tuple[GridKind, int]] = {"MXFP4": (GridKind.FP4, 32), "NVFP4": (GridKind.FP4, 16)}
"""ggml's floats of 4 bits, and the length of a group."""

_TABLES = {"nf4": GridKind.NF4, "fp4": GridKind.FP4, "float8_e4m3fn": GridKind.FP8}
_SCALES = {"tensor": ScaleLayout.TENSOR, "row": ScaleLayout.ROW}
_OWN_TABLES = "bitsandbytes"
"""The method whose files say what a code means: not always what the name of the code does."""
_FREE_ZERO = ("hqq", "quanto", "torchao")
"""Methods of which groups may have a minimum of their own."""
_SAMPLE = 64
_ROUNDING = 1e-6
_OFF_GRID = 0.02
_EXCEPTIONS = 0.1


def find_grid(weight: Tensor, stored: str = "") -> Grid | None:
    """The grid that a matrix's weights lie on; None where there is none.

    Args:
        weight: [outputs, inputs]; tensors of other ranks have no grid.
        stored: the dtype in the file, of which GGUF's types and a `PackedType` are known.
    """
    if weight.ndim != 2 or weight.numel() == 0:
        return None
    zeros = int((weight == 0).sum()) / weight.numel()
    if stored in GGUF_GRIDS:
        bits, length, zero = GGUF_GRIDS[stored]
        return Grid(GridKind.INTEGER, float(bits), ScaleLayout.GROUP, length, zeros, zero)
    if stored in GGUF_TABLES:
        table, length = GGUF_TABLES[stored]
        return Grid(table, float(TABLE_BITS[table]), ScaleLayout.GROUP, length, zeros)
    if (declared := _declared(stored, weight, zeros)) is not None:
        return declared
    for layout, group, rows in _layouts(weight):
        if (kind := _kind(rows)) is not None:
            zero = _zero_point(rows, int(kind[1])) if kind[0] is GridKind.INTEGER else ZeroPoint.SYMMETRIC
            return Grid(kind[0], kind[1], layout, group, zeros, zero)
    return None


def _declared(stored: str, weight: Tensor, zeros: float) -> Grid | None:
    """The grid of a `PackedType`; None for other dtypes, for other codes than these, and where those that share a scale
    are no neighbours, or a row's last ones are fewer.

    0 is on one of the values in most of them; whether in the middle, the values tell.
    """
    packed = PackedType.parse(stored)
    if packed is None or (packed.group is None and packed.scales not in _SCALES):
        return None
    if packed.group is not None and weight.shape[1] % packed.group:
        return None
    layout = _SCALES.get(packed.scales, ScaleLayout.GROUP)
    if packed.code == GridKind.TERNARY:
        return Grid(GridKind.TERNARY, math.log2(3), layout, packed.group, zeros)
    if packed.code in _TABLES:
        found = Grid(_TABLES[packed.code], float(TABLE_BITS[_TABLES[packed.code]]), layout, packed.group, zeros)
        return found if packed.method != _OWN_TABLES or _is_on(found, weight) else None
    if packed.bits is None:
        return None
    rows = (
        weight.reshape(1, -1) if layout is ScaleLayout.TENSOR else weight.reshape(-1, packed.group or weight.shape[1])
    )
    zero = _zero_point(rows, packed.bits)
    if zero is ZeroPoint.FREE and packed.method not in _FREE_ZERO:
        zero = ZeroPoint.INTEGER
    return Grid(GridKind.INTEGER, float(packed.bits), layout, packed.group, zeros, zero)


def _is_on(grid: Grid, weight: Tensor) -> bool:
    """Whether a sample of the rows is of the set."""
    return constraint_of(grid).holds(weight[:: max(1, len(weight) // _SAMPLE)].float())


def _layouts(matrix: Tensor) -> Iterator[tuple[ScaleLayout, int | None, Tensor]]:
    """The matrix as [groups, weights in a group], the coarsest layout first."""
    outputs, inputs = matrix.shape
    yield ScaleLayout.TENSOR, None, matrix.reshape(1, -1)
    if outputs > 1:
        yield ScaleLayout.ROW, None, matrix
    for group in GROUPS:
        if inputs % group == 0 and inputs > group:
            yield ScaleLayout.GROUP, group, matrix.reshape(-1, group)


def _kind(rows: Tensor) -> tuple[GridKind, float] | None:
    """What all groups agree on. A sample of them goes first: most matrices are on no grid, and that is soon seen."""
    step = max(1, len(rows) // _SAMPLE)
    sample = _kind_of(rows[::step, :: max(1, rows.shape[1] // 65_536)])
    return None if sample is None else (sample if step == 1 and rows.shape[1] <= 65_536 else _kind_of(rows))


def _kind_of(rows: Tensor) -> tuple[GridKind, float] | None:
    signs = _signs(rows)
    if signs is not None:
        fits = signs >= 2 and 2 * signs <= rows.shape[1]
        return ((GridKind.BINARY, 1.0) if signs == 2 else (GridKind.TERNARY, math.log2(3))) if fits else None
    values = rows.double().sort(dim=1).values
    steps = values.diff(dim=1)
    new = steps > _ROUNDING * values.abs().amax(dim=1, keepdim=True)
    levels = int(new.sum(dim=1).max()) + 1
    if levels < 2 or 2 * levels > rows.shape[1]:
        return None
    bits = next((bits for bits in BITS if levels <= 2**bits and 2 * 2**bits <= rows.shape[1]), None)
    if bits is None or not _is_lattice(values, steps, new, bits):
        return None
    return GridKind.INTEGER, float(bits)


def _signs(rows: Tensor) -> int | None:
    """How many of -s, 0 and s a group holds at most; None where any holds something else.

    Told without sorting, which takes seconds a matrix in a network of some billion parameters.
    """
    sizes = rows.abs()
    scale = sizes.amax(dim=1, keepdim=True)
    zero, full = sizes <= _ROUNDING * scale, sizes >= (1 - _ROUNDING) * scale
    if not bool((zero | full).all()):
        return None
    held = (zero, ~zero & (rows < 0), ~zero & (rows > 0))
    return int(torch.stack([one.any(dim=1) for one in held]).sum(dim=0).max())


def _is_lattice(values: Tensor, steps: Tensor, new: Tensor, bits: int) -> bool:
    """Whether the levels are evenly spaced in all groups but a few, whose codes may share a divisor."""
    spacing = torch.where(new, steps, math.inf).amin(dim=1, keepdim=True)
    usable = spacing[:, 0] < math.inf
    if not bool(usable.any()):
        return False
    multiples = torch.where(new, steps / spacing, 0.0)[usable]
    even = ((multiples - multiples.round()).abs() <= _OFF_GRID * multiples.clamp_min(1)).all(dim=1)
    span = (values[usable, -1] - values[usable, 0]) / spacing[usable, 0]
    fits = even & (span <= 2**bits - 1 + _OFF_GRID * 2**bits)
    return float(fits.double().mean()) >= 1 - _EXCEPTIONS


def _zero_point(rows: Tensor, bits: int) -> ZeroPoint:
    """Where 0 lies in most groups: those whose codes share a divisor seem to have a wider spacing than they have."""
    values = rows.double().sort(dim=1).values
    steps = values.diff(dim=1)
    spacing = torch.where(steps > _ROUNDING * values.abs().amax(dim=1, keepdim=True), steps, math.inf).amin(dim=1)
    span = values[:, -1] - values[:, 0]
    spacing = span / (span / spacing).round().clamp_min(1)  # of all steps together: known to more digits
    low, high = (values[:, end] / spacing for end in (0, -1))
    slack = _OFF_GRID + 2 * torch.finfo(rows.dtype).eps * torch.maximum(low.abs(), high.abs())
    constant = span == 0
    on_grid = ((low - low.round()).abs() <= slack) | constant
    half = 2 ** (bits - 1)
    centred = (torch.maximum(-low, high) <= half + slack) & (torch.minimum(-low, high) <= half - 1 + slack)
    if float(on_grid.double().mean()) < 1 - _EXCEPTIONS:
        return ZeroPoint.FREE
    return ZeroPoint.SYMMETRIC if bool((centred | ~on_grid | constant).all()) else ZeroPoint.INTEGER
