"""Weights that are given their codes one row after another: the two loops that rounding spends its time in.

A row has neighbours that wait for it, but its columns are each by themselves. On a CUDA device that has Triton, which
PyTorch's builds for Linux bring, one kernel therefore does all rows of a loop (`kernels`): step by step they are a
dozen launches a row, which leave the device idle. Sets by table go step by step everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peelaudit.errors import is_out_of_memory
from peelaudit.network.lowbit.constraints import Constraint, Even, Scales, away_from_zero

__all__ = ["compensate", "descend", "descend_floats"]

_DEVICES = ("cuda",)
_unusable: list[str] = []
"""Why kernels can't be had in this process, once one couldn't."""


def descend(weight: Tensor, slope: Tensor, gram: Tensor, first: int, scales: Scales, constraint: Constraint) -> None:
    """Give each weight in turn the code that is best while the others stay: a coordinate descent.

    Args:
        weight: of the set, [rows, columns] float32; changed in place.
        slope: gram @ (target - weight) of a span that the rows are in, [span, columns]; kept up to date in place.
        gram: of the span, [span, span].
        first: where in the span the rows begin.
        scales: of each column, [columns].
        constraint: the set.
    """
    if isinstance(constraint, Even) and _by_kernel("descend", weight, slope, gram, first, scales, constraint.levels):
        return
    divisor = away_from_zero(scales.scale)
    for row, own in enumerate(weight, first):
        position = slope[row].div(gram[row, row]).add_(own).div_(divisor)
        value = constraint.units(constraint.nearest(position, scales.zero), scales.zero).mul_(scales.scale)
        slope.addr_(gram[:, row], value - own, alpha=-1)
        own.copy_(value)


def descend_floats(weight: Tensor, slope: Tensor, gram: Tensor) -> None:
    """The same for weights that nothing holds, all those of a span."""
    for row, own in enumerate(weight):
        change = slope[row] / gram[row, row]
        slope.addr_(gram[:, row], change, alpha=-1)
        own += change


def compensate(weight: Tensor, factor: Tensor, scales: Scales, constraints: Sequence[Constraint]) -> Tensor:
    """Round each weight in turn, its error spread over those still to come (GPTQ, arXiv 2210.17323).

    Args:
        weight: [rows, columns] float32; rounded in place.
        factor: upper triangular, [rows, rows], its square the inverse of the Gram matrix.
        scales: of each weight, [rows, columns].
        constraints: of each row.

    Returns:
        [rows, columns] what those behind these rows have to make good: a row's error over its own entry of `factor`.
    """
    errors = torch.empty_like(weight)
    levels = [one.levels for one in constraints if isinstance(one, Even)]
    if len(levels) == len(weight) and _by_kernel("compensate", weight, factor, errors, scales, levels):
        return errors
    divisor = away_from_zero(scales.scale)
    for row, (own, constraint) in enumerate(zip(weight, constraints, strict=True)):
        scale, zero = scales.scale[row], scales.zero[row]
        rounded = constraint.units(constraint.nearest(own / divisor[row], zero), zero).mul_(scale)
        errors[row] = (own - rounded) / factor[row, row]
        weight[row + 1 :].addr_(factor[row, row + 1 :], errors[row], alpha=-1)
        own.copy_(rounded)
    return errors


def _by_kernel(name: str, *args: Any) -> bool:
    """Whether a kernel did it, on these tensors. Where one can't be compiled, which takes Triton and a C compiler, none
    is asked again; nothing is written then.
    """
    if args[0].device.type not in _DEVICES or _unusable:
        return False
    try:
        from peelaudit.network.lowbit import kernels

        getattr(kernels, name)(*args)
    except Exception as error:  # whatever keeps a compiler from working
        if is_out_of_memory(error):
            raise
        _unusable.append(repr(error)[:200])
        warnings.warn(f"low-bit weights are rounded row by row, without Triton ({_unusable[0]})", stacklevel=3)
        return False
    return True
