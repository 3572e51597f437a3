"""Products of float32 matrices that are as exact as float32 is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["exact_float32"]

_BACKENDS: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)  # their stubs don't know all they have


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Within it no product of float32 matrices is rounded to TF32 or bfloat16, whatever the process was set to.

    An application may have asked for that, and so do the images in which NVIDIA ships torch, by
    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE: three digits instead of seven, in an audit that says float32.
    """
    try:
        before: dict[Any, str] = {None: torch.get_float32_matmul_precision()}
    except RuntimeError:  # it was set for each backend by itself, and has no one name
        before = {backend.matmul: backend.matmul.fp32_precision for backend in _BACKENDS}
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        for products, precision in before.items():
            if products is None:
                torch.set_float32_matmul_precision(precision)
            else:
                products.fp32_precision = precision
