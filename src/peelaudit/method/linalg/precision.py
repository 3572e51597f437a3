"""Products of matrices that are as exact as float32 is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["exact_float32", "wide_product"]

_BACKENDS: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)  # their stubs don't know all they have
_HALVES = (torch.float16, torch.bfloat16)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Within it no product of float32 matrices is rounded to TF32 or bfloat16, whatever the process was set to.

    An application may have asked for that, and so do the images in which NVIDIA ships torch, by
    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE: three digits instead of seven, in an audit that says float32.
    """
    with _float32_products("highest"):
        yield


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two matrices of one dtype, in float32 at least.

    Matrices in half precision are multiplied as TF32 on a CUDA device, whose mantissa holds theirs whole: products are
    exact and sums are float32's, several times as fast.
    """
    if left.dtype in _HALVES and left.device.type == "cuda":
        with _float32_products("high"):
            return left.float() @ right.float()
    dtype = torch.promote_types(left.dtype, torch.float32)
    return left.to(dtype) @ right.to(dtype)


@contextlib.contextmanager
def _float32_products(precision: str) -> Iterator[None]:
    try:
        before: dict[Any, str] = {None: torch.get_float32_matmul_precision()}
    except RuntimeError:  # it was set for each backend by itself, and has no one name
        before = {backend.matmul: backend.matmul.fp32_precision for backend in _BACKENDS}
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        for products, name in before.items():
            if products is None:
                torch.set_float32_matmul_precision(name)
            else:
                products.fp32_precision = name
