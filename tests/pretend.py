"""A pretend accelerator on a machine without one: tensors that say they are on it, and lie in memory.

On it everything is computed by the CPU, to the last digit, but as strictly as a real one would: a tensor there and one
here in one operation are an error, as is `numpy()` of one there, so that a forgotten `.to(device)` fails in a test and
not on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

__all__ = ["pretend", "register"]

aten = torch.ops.aten
_FROM_EITHER = (aten.copy_.default, aten._to_copy.default)
_INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index_put.default)
"""Their indices may be on the CPU where what they index isn't, not the other way round."""


class There(Tensor):
    """A tensor on the pretend device; `here` is where it lies in truth."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor, device: torch.device) -> Self:
        made = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=device,
        )
        made.here = here
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = There(self.here.detach().clone(), self.device)
        return torch.nn.Parameter(copied, requires_grad=False) if isinstance(self, torch.nn.Parameter) else copied

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sees what has no tensor there among its arguments: `torch.zeros(…, device=…)` and `.to(device)`."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    asked = kwargs.get("device")
    device = there[0].device if there else None
    if asked is not None:
        device = torch.device(asked) if torch.device(asked).type not in ("cpu", "meta") else None
        if device is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
    if there and function not in _FROM_EITHER:
        _check_places(function, args, tensors)
    if function is aten._fused_sdp_choice.default:
        return 0  # attention in plain products: the fused kernels differ by device
    if function in (aten._local_scalar_dense.default, aten.is_same_size.default, aten.equal.default):
        device = None
    if function is aten.copy_.default:
        device = args[0].device if isinstance(args[0], There) else None
    result = function(*tree_map(_here, args), **tree_map(_here, kwargs))
    if torch.Tag.inplace_view in function.tags:
        with no_dispatch():
            return function(*args, **kwargs)  # the one there gets its new shape too
    return tree_map(lambda value: _placed(value, there, tensors, device), result)


def _check_places(function: Any, args: Any, tensors: list[Tensor]) -> None:
    if function in _INDEXED:
        if not isinstance(args[0], There):
            raise RuntimeError(f"{function}: a tensor here is indexed by one on the device")
        return
    if any(not isinstance(tensor, There) and tensor.ndim > 0 for tensor in tensors):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device")


def _here(value: Any) -> Any:
    return value.here if isinstance(value, There) else value


def _placed(value: Any, there: list[There], tensors: list[Tensor], device: torch.device | None) -> Any:
    """The result where it belongs: an argument that was changed in place is given back itself."""
    if not isinstance(value, Tensor):
        return value
    for tensor in there:
        if tensor.here is value:
            return tensor
    if device is None or any(tensor is value for tensor in tensors):
        return value
    return There(value, device)


@contextmanager
def pretend() -> Iterator[torch.device]:
    """The device, as long as it is there."""
    register()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # noqa: FBT003  # torch.tensor(…, device=…) goes by here, and is seen
    try:
        with _Factories():
            yield torch.device("pretend", 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


@cache
def register() -> None:
    """Once for the process, and before its first backward pass, at which torch counts the devices that there are.

    It has room for one that it doesn't know.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _setup_privateuseone_for_python_backend("pretend")
