"""Natural-gradient directions of linear maps, with Kronecker-factored curvature.

For a map with inputs X and, at its output, the gradients G of the loss over the same tokens, the direction is

    ΔW = -(X'X/n + λ_X I)^-1 (X'G/n) (G'G/n + λ_G I)^-1

(Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", arXiv 1503.05671).
The input's half is the regression of the gradient on the features. The output's half keeps one step from going far
along the few directions in which the loss is steep. One eigendecomposition a side serves every damping.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.solvers.moments import accumulation_dtype

__all__ = ["DAMPINGS", "Curvature", "Factors"]

DAMPINGS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""The path of λ_X, relative to the mean eigenvalue of X'X."""
OUTPUT_DAMPING = 1.0
"""λ_G, relative to the mean eigenvalue of G'G."""


@dataclass(frozen=True, slots=True)
class Curvature:
    """One map's factors in their eigenbases: `cross` is X'G/n in both, [inputs, outputs]."""

    gradient: Tensor
    input_values: Tensor
    input_vectors: Tensor
    output_values: Tensor
    output_vectors: Tensor
    cross: Tensor

    def direction(self, damping: float) -> Tensor:
        """ΔW for a damping of `DAMPINGS`, [inputs, outputs]; zeros where no gradient reaches the map."""
        if not bool(self.output_values.any()) or not bool(self.input_values.any()):
            return torch.zeros_like(self.cross)
        inputs = self.input_values + damping * self.input_values.mean()
        outputs = self.output_values + OUTPUT_DAMPING * self.output_values.mean()
        return -(self.input_vectors @ (self.cross / inputs[:, None] / outputs) @ self.output_vectors.T)


class Factors:
    """X'X, G'G and X'G of one map, summed batch by batch in float64. A column of ones stands last for its bias.

    Args:
        inputs: how many the map has.
        outputs: how many the map has.
        biased: whether it has a bias.
        device: where the sums are.
    """

    def __init__(self, inputs: int, outputs: int, *, biased: bool, device: torch.device) -> None:
        self.biased = biased
        dtype = accumulation_dtype(device)
        self._inputs = torch.zeros(inputs + biased, inputs + biased, dtype=dtype, device=device)
        self._outputs = torch.zeros(outputs, outputs, dtype=dtype, device=device)
        self._cross = torch.zeros(inputs + biased, outputs, dtype=dtype, device=device)
        self._rows = 0

    def add(self, inputs: Tensor, gradients: Tensor) -> None:
        """Rows of X, [tokens, inputs], and of G, [tokens, outputs]."""
        x, g = inputs.to(self._cross.dtype), gradients.to(self._cross.dtype)
        if self.biased:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        self._inputs.addmm_(x.T, x)
        self._outputs.addmm_(g.T, g)
        self._cross.addmm_(x.T, g)
        self._rows += len(x)

    def curvature(self) -> Curvature:
        """The factors' eigendecompositions.

        Raises:
            NonFiniteResult: a factor holds NaN or Inf.
        """
        factors = [factor / self._rows for factor in (self._inputs, self._outputs, self._cross)]
        if not all(bool(torch.isfinite(factor).all()) for factor in factors):
            raise NonFiniteResult("the curvature of the loss in a linear map holds NaN or Inf")
        input_values, input_vectors = torch.linalg.eigh(factors[0])
        output_values, output_vectors = torch.linalg.eigh(factors[1])
        rotated = input_vectors.T @ factors[2] @ output_vectors
        return Curvature(
            factors[2],
            input_values.clamp_min(0),
            input_vectors,
            output_values.clamp_min(0),
            output_vectors,
            rotated,
        )
