"""Forward-mode derivatives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["jvp"]


def jvp(function: Callable[..., Tensor], at: tuple[Any, ...], along: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """A function's value and its derivative along a change of its arguments (tensors, or dictionaries of them)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script`", DeprecationWarning)  # torch's own use of it
        return cast("tuple[Tensor, Tensor]", torch.func.jvp(function, at, along))
