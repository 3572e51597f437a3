"""Natural-gradient directions of linear maps, with Kronecker-factored curvature.

For a map with inputs X and, at its output, the gradients G of the loss over the same tokens, the direction is

    ΔW = -(X'X/n + λ_X I)^-1 (X'G/n) (G'G/n + λ_G I)^-1

(Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", arXiv 1503.05671).
The input's half is the regression of the gradient on the features. The output's half keeps one step from going far
along the few directions in which the loss is steep.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.moments import Gram, accumulation_dtype
from peelaudit.method.linalg.precision import wide_product

__all__ = ["Curvature", "Factors"]

INPUT_DAMPING = 0.1
"""λ_X, relative to the mean eigenvalue of X'X. A path of dampings with the best taken at each step gains no more: first
steps on five networks at most 0.2 %, and nine whole repairs of three between 2 % more and 3 % less, at 1.1 to 1.2 times
the cost."""
OUTPUT_DAMPING = 1.0
"""λ_G, relative to the mean eigenvalue of G'G."""
ROUNDED = 1 / 32
"""About what share of the damping float32 may round off."""


class Moment:
    """What goes into some maps, X'X, or comes out of one, G'G, summed over rows."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._gram = Gram(size, device)
        self._rows = 0
        self._inverses: dict[float, Inverse] = {}

    def add(self, rows: Tensor) -> None:
        """Of [rows, size]."""
        self._gram.add(rows)
        self._rows += len(rows)
        self._inverses.clear()

    def inverse(self, damping: float) -> Inverse:
        """Of the mean over the rows plus `damping` times its mean eigenvalue: maps that share a moment share that.

        Raises:
            NonFiniteResult: the moment holds NaN or Inf.
        """
        if damping not in self._inverses:
            self._inverses[damping] = Inverse(self._gram.whole / max(1, self._rows), damping)
        return self._inverses[damping]


class Inverse:
    """Of a matrix of second moments plus `damping` times its mean eigenvalue.

    In float32 where that rounds off a little of the damping alone: only a direction comes of it, whose slope and length
    are found elsewhere, and float64 takes twice as long, on many GPUs far longer. It makes zeros of all where there is
    no moment: moments are zero of states that are, as behind a norm of zeros, and where float32 doesn't hold the
    states' squares, what is left of them isn't positive definite.
    """

    def __init__(self, moment: Tensor, damping: float) -> None:
        _check(moment)
        self._mean = moment.diagonal().mean()
        self._factor: Tensor | None = None
        if bool(self._mean < torch.finfo(torch.float32).tiny):
            return
        moment /= self._mean
        moment.diagonal().add_(damping)
        largest = float(len(moment))  # its trace, which no eigenvalue is above
        narrow = largest * torch.finfo(torch.float32).eps < ROUNDED * damping
        self._factor = torch.linalg.cholesky(moment.float() if narrow else moment)

    def __call__(self, right: Tensor) -> Tensor:
        largest = right.abs().max()
        if self._factor is None or bool(largest == 0):
            return torch.zeros_like(right)
        scaled = (right / largest).to(self._factor)
        return torch.cholesky_solve(scaled, self._factor).to(right).mul_(largest / self._mean)


def _check(moment: Tensor) -> None:
    if not bool(torch.isfinite(moment).all()):
        raise NonFiniteResult("the curvature of the loss in a linear map holds NaN or Inf")


@dataclass(frozen=True, slots=True)
class Curvature:
    """One map's gradient X'G/n, [inputs, outputs], and the same times the output factor's inverse.

    Of an expert the gradient is a mean over all tokens, as the loss is, and the factors over those that reach it: with
    m of n tokens its block of the curvature is m/n of the product of these factors, so that both shares cancel.
    """

    gradient: Tensor
    scaled: Tensor
    inputs: Inverse

    def direction(self) -> Tensor:
        """ΔW, [inputs, outputs]; zeros where no gradient reaches the map, or nothing goes into it."""
        return -self.regressed(self.scaled)

    def regressed(self, gradient: Tensor) -> Tensor:
        """(X'X/n + λ_X I)^-1 times a gradient of any map of these inputs, [inputs, outputs]."""
        return self.inputs(gradient)


class Factors:
    """X'X, G'G and X'G of one map, summed batch by batch in float64. A column of ones stands last for its bias.

    The products are in float32 at least: next to the damping, what that rounds off is nothing. In float16 sums of
    squares overflow, and in bfloat16 a moment isn't positive definite any more.

    Attributes:
        inputs: X'X, which maps of the same rows share.

    Args:
        inputs: how many the map has.
        outputs: how many the map has.
        biased: whether it has a bias.
        device: where the sums are.
        beside: those of a map that sees the same rows, of which each is added there first: as a query's map does beside
            a key's. X'X is summed and inverted once for both.
    """

    def __init__(
        self, inputs: int, outputs: int, *, biased: bool, device: torch.device, beside: Factors | None = None
    ) -> None:
        self.biased = biased
        dtype = accumulation_dtype(device)
        leader = beside if beside is not None and beside.biased == biased else None
        self._shared = leader is not None
        self.inputs: Moment = Moment(inputs + biased, device) if leader is None else leader.inputs
        self._outputs = Moment(outputs, device)
        self._cross = torch.zeros(inputs + biased, outputs, dtype=dtype, device=device)
        self._rows = 0

    def add(self, inputs: Tensor, gradients: Tensor) -> None:
        """Rows of X, [tokens, inputs], and of G, [tokens, outputs]."""
        x = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1) if self.biased else inputs
        if not self._shared:
            self.inputs.add(x)
        self._outputs.add(gradients)
        self._cross += wide_product(x.T, gradients)
        self._rows += len(x)

    def curvature(self, tokens: int, *, damping: float = INPUT_DAMPING) -> Curvature:
        """The factors as they are used.

        Args:
            tokens: that the gradient is a mean over: more than were added where others don't go through the map, as
                through an expert. The factors are means over those that do.
            damping: λ_X, relative to the mean eigenvalue of X'X.

        Raises:
            NonFiniteResult: a factor holds NaN or Inf.
        """
        _check(self._cross)
        cross = self._cross / max(1, self._rows)
        scaled = self._outputs.inverse(OUTPUT_DAMPING)(cross.T).T
        return Curvature(self._cross / tokens, scaled, self.inputs.inverse(damping))
