"""Linear maps whichever way round a module keeps its matrix, and a look at what goes through modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

__all__ = ["InputsFirst", "LinearMap", "Tap", "is_linear", "keeps_inputs_first", "tapped"]

Tap = Callable[[Tensor, Tensor], Tensor | None]
"""Is shown a call's first argument and its output, of several values the first or the module's `product`th; what it
returns, if anything, stands in for the output."""


class InputsFirst(nn.Module):
    """A linear map whose `weight` is [inputs, outputs], with or without a `bias`, [outputs]."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def forward(self, hidden: Tensor) -> Tensor:
        """The product."""
        product = hidden @ self.weight
        return product if self.bias is None else product + self.bias


def is_linear(module: nn.Module) -> bool:
    """Whether a module's weight is a matrix that multiplies hidden states."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def keeps_inputs_first(module: nn.Module) -> bool:
    """Whether a linear module keeps its matrix as [inputs, outputs], as transformers' Conv1D does; nn.Linear, and a
    mixture's router, keep [outputs, inputs].
    """
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (InputsFirst, Conv1D))


@dataclass(frozen=True, slots=True)
class LinearMap:
    """A module that multiplies hidden states by a matrix.

    Attributes:
        path: within the block.
        module: transformers' own.
        biased: whether it has a bias that the checkpoint has too.
    """

    path: str
    module: nn.Module
    biased: bool

    @property
    def weight(self) -> Tensor:
        """The matrix as the module keeps it."""
        return cast("Tensor", self.module.weight)

    @property
    def bias(self) -> Tensor | None:
        """[outputs], None where the module has none; zeros where the checkpoint alone has none."""
        return cast("Tensor | None", getattr(self.module, "bias", None))

    @property
    def inputs_first(self) -> bool:
        """See `keeps_inputs_first`."""
        return keeps_inputs_first(self.module)

    @property
    def inputs(self) -> int:
        """How many inputs it has."""
        return int(self.weight.shape[0 if self.inputs_first else 1])

    @property
    def outputs(self) -> int:
        """How many outputs it has."""
        return int(self.weight.shape[1 if self.inputs_first else 0])

    def turned(self, matrix: Tensor) -> Tensor:
        """A view of [inputs, outputs] as the module would keep it, or of what it keeps as [inputs, outputs]."""
        return matrix if self.inputs_first else matrix.T


@contextlib.contextmanager
def tapped(taps: Iterable[tuple[nn.Module, Tap]]) -> Iterator[None]:
    """Show every call of these modules to their taps, as long as it lasts."""

    def hook(tap: Tap) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor | None]:
        return lambda module, args, output: tap(args[0], _product(module, output))

    handles = [module.register_forward_hook(hook(tap)) for module, tap in taps]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _product(module: nn.Module, output: Any) -> Tensor:
    return cast("Tensor", output[getattr(module, "product", 0)] if isinstance(output, tuple) else output)
