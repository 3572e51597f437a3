"""The loops of `coordinates` as one kernel, for evenly spaced sets on a device that Triton compiles for.

A program has some columns and all rows of a span, which it keeps in registers from the first row to the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from peelaudit.network.lowbit.constraints import Scales

__all__ = ["compensate", "descend"]

_WIDTH = 32
"""Columns of a program: a warp's threads, each with one, need not wait for one another."""


def descend(weight: Tensor, slope: Tensor, gram: Tensor, first: int, scales: Scales, levels: int) -> None:
    """As `coordinates.descend`."""
    highest = torch.full((1,), levels - 1, dtype=torch.float32, device=weight.device)
    _launch(slope, weight, gram, first, scales, highest, descent=True)


def compensate(weight: Tensor, factor: Tensor, errors: Tensor, scales: Scales, levels: Sequence[int]) -> None:
    """As `coordinates.compensate`, with the errors written to `errors`."""
    highest = torch.tensor(levels, dtype=torch.float32, device=weight.device) - 1
    _launch(weight, errors, factor, 0, scales, highest, descent=False)


def _launch(
    kept: Tensor, told: Tensor, matrix: Tensor, first: int, scales: Scales, highest: Tensor, *, descent: bool
) -> None:
    span, columns = kept.shape
    scale, zero = (one.expand(len(told), columns) for one in (scales.scale, scales.zero))
    _one_by_one[(triton.cdiv(columns, _WIDTH),)](
        kept,
        told,
        matrix,
        scale,
        zero,
        highest,
        first,
        len(told),
        span,
        columns,
        *kept.stride(),
        *told.stride(),
        *matrix.stride(),
        *scale.stride(),
        *zero.stride(),
        min(1, len(highest) - 1),
        descent=descent,
        height=triton.next_power_of_2(span),
        width=_WIDTH,
        num_warps=1,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _one_by_one(  # type: ignore[no-untyped-def]  # Triton reads annotations, and knows none but its own
    kept,  # what is kept of a span's rows, [span, columns]: the slope in a descent, else the weights
    told,  # [rows, columns]: the weights in a descent, else the errors
    matrix,  # [span, span]: a row of it is what a change of that row's weight does to the others
    scale,
    zero,
    highest,  # codes
    first,
    rows,
    span,
    columns,
    kept_row,  # how far apart rows lie, and columns
    kept_column,
    told_row,
    told_column,
    matrix_row,
    matrix_column,
    scale_row,
    scale_column,
    zero_row,
    zero_column,
    highest_row,
    descent: tl.constexpr,
    height: tl.constexpr,
    width: tl.constexpr,
):
    column = tl.program_id(0) * width + tl.arange(0, width)
    inside = column < columns
    place = tl.arange(0, height)
    where = place[:, None] * kept_row + column[None, :] * kept_column
    there = (place < span)[:, None] & inside[None, :]
    now = tl.load(kept + where, mask=there, other=0.0)
    row = 0
    while row < rows:
        here = first + row
        chosen = (place == here)[:, None]
        own = tl.sum(tl.where(chosen, now, 0.0), axis=0)
        line = tl.load(matrix + here * matrix_row + place * matrix_column, mask=place < span, other=0.0)
        pivot = tl.load(matrix + here * (matrix_row + matrix_column))
        size = tl.load(scale + row * scale_row + column * scale_column, mask=inside, other=1.0)
        middle = tl.load(zero + row * zero_row + column * zero_column, mask=inside, other=0.0)
        most = tl.load(highest + row * highest_row)
        before = own
        if descent:
            before = tl.load(told + row * told_row + column * told_column, mask=inside, other=0.0)
            own = before + own / pivot
        # Within the range and one beyond it, so that what is added and taken away leaves the nearest whole number.
        code = own / tl.where(size == 0.0, 1.0, size) + middle
        code = tl.minimum(tl.maximum(code, -1.0), most + 1.0)
        code = (code + 12582912.0) - 12582912.0
        value = (tl.minimum(tl.maximum(code, 0.0), most) - middle) * size
        if descent:
            now -= line[:, None] * (value - before)[None, :]
            tl.store(told + row * told_row + column * told_column, value, mask=inside)
        else:
            error = (before - value) / pivot
            now = tl.where(chosen, value[None, :], now - line[:, None] * error[None, :])
            tl.store(told + row * told_row + column * told_column, error, mask=inside)
        row += 1
    tl.store(kept + where, now, mask=there)
