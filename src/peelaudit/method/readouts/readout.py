"""Readouts: what turns hidden states into next-token losses (docs/method.md, Read-outs)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.forward import jvp
from peelaudit.method.readouts.cross_entropy import cross_entropies, gradients, products, spreads
from peelaudit.network.states import asked
from peelaudit.network.unembedding import Unembedding
from peelaudit.settings.audit import ReadoutKind

__all__ = ["Readout", "Unembedding"]


@dataclass(frozen=True)
class Readout:
    """A fitted readout: an optional affine map of the state, then an unembedding.

    `map` is A [d_model, d_model] and b [d_model] of z + zA + b, or None.
    """

    kind: ReadoutKind
    unembedding: Unembedding
    map: tuple[Tensor, Tensor] | None = None

    def losses(self, state: Tensor, targets: Tensor, index: Tensor, what: str) -> NDArray[np.float64]:
        """Next-token cross-entropy of some sequences, [n], in nats, summed over each one's predictions.

        Args:
            state: [sequences, positions, d_model]
            targets: [sequences, positions], the tokens, `NO_TARGET` where one isn't to be predicted.
            index: [n] which sequences.
            what: the subject, for the error.

        Raises:
            NonFiniteResult: if a loss is NaN or Inf.
        """
        return self.each(state, targets, index, what).sum(dim=1).numpy()

    def each(self, state: Tensor, targets: Tensor, index: Tensor, what: str) -> Tensor:
        """The same of every prediction by itself, [n, positions - 1] float64; 0 where nothing is to be predicted."""
        return self.tempered(state, targets, index, (0.0,), what)[0]

    @torch.no_grad()
    def tempered(self, state: Tensor, targets: Tensor, index: Tensor, exponents: Sequence[float], what: str) -> Tensor:
        """The same with what the head's map makes divided by temperatures, [temperatures, n, positions - 1]; the map is
        applied once.

        Args:
            state: [sequences, positions, d_model]
            targets: [sequences, positions], as in `losses`.
            index: [n] which sequences.
            exponents: the temperatures' logarithms.
            what: the subject, for the error.

        Raises:
            NonFiniteResult: if a loss is NaN or Inf.
        """
        result = torch.zeros(len(exponents), len(index), targets.shape[1] - 1, dtype=torch.float64)
        head = self.unembedding
        for sequences, positions in asked(targets[index], head.batch_tokens):
            chosen = index[sequences]
            normed = self.normed(state[chosen, positions])
            head.work.read(len(normed))
            expected = targets[chosen, positions + 1].to(normed.device)
            found = cross_entropies(head, normed, expected, [math.exp(-exponent) for exponent in exponents])
            result[:, sequences, positions] = found.cpu().double()
        if not result.isfinite().all():
            raise NonFiniteResult(f"{what}: the loss is NaN or Inf under the readout {self.kind!r}")
        return result

    def gradient(self, state: Tensor, targets: Tensor) -> Tensor:
        """The gradient at a state, [sequences, positions, d_model], of the cross-entropy summed over all predictions.

        Args:
            state: [sequences, positions, d_model]
            targets: [sequences, positions], as in `losses`.
        """
        result, head = self._nothing(state), self.unembedding
        for sequences, positions in asked(targets, head.batch_tokens):
            head.work.read(2 * len(sequences))
            hidden, normed = self._traced(state[sequences, positions])
            expected = targets[sequences, positions + 1].to(normed.device)
            pull = gradients(head, normed.detach(), expected)
            result[sequences, positions] = torch.autograd.grad(normed, hidden, pull.to(normed.dtype))[0]
        return result

    def curvature(self, state: Tensor, tangent: Tensor, targets: Tensor) -> Tensor:
        """The Gauss-Newton product J'(diag p - pp')J of the summed cross-entropy at a state with a change of it.

        Args:
            state: [sequences, positions, d_model]
            tangent: how the state changes, of that shape.
            targets: [sequences, positions], as in `losses`.

        Returns:
            the product, of that shape.
        """
        result, head = self._nothing(state), self.unembedding
        for sequences, positions in asked(targets, head.batch_tokens):
            head.work.read(4 * len(sequences))
            moving = self._moving(state[sequences, positions], tangent[sequences, positions])
            expected = targets[sequences, positions + 1].to(moving[0].device)
            pull = products(head, *moving, expected)
            hidden, normed = self._traced(state[sequences, positions])
            result[sequences, positions] = torch.autograd.grad(normed, hidden, pull.to(normed.dtype))[0]
        return result

    def along(self, state: Tensor, tangent: Tensor, targets: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How each sequence's cross-entropy changes along a change of a state: to first order, and its Gauss-Newton
        curvature, both [sequences], in nats summed over the predictions.

        Args:
            state: [sequences, positions, d_model]
            tangent: how the state changes, of that shape.
            targets: [sequences, positions], as in `losses`.
        """
        found = torch.zeros(2, len(state), dtype=torch.float64)
        for sequences, positions in asked(targets, self.unembedding.batch_tokens):
            self.unembedding.work.read(2 * len(sequences))
            moving = self._moving(state[sequences, positions], tangent[sequences, positions])
            expected = targets[sequences, positions + 1].to(moving[0].device)
            found.index_add_(1, sequences, spreads(self.unembedding, *moving, expected).cpu().double())
        slopes, bends = found.numpy()
        return slopes, bends

    @torch.no_grad()
    def _moving(self, hidden: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Of states [n, d_model] and a change of them what the head's map is given, and how that changes."""
        device = self.unembedding.weight.device
        return jvp(self.normed, (hidden.detach().to(device),), (turn.detach().to(device),))

    def _traced(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """States [n, d_model] that a gradient comes down to, and what the head's map is given."""
        hidden = hidden.detach().to(self.unembedding.weight.device).requires_grad_()
        with torch.enable_grad():
            return hidden, self.normed(hidden)

    def _nothing(self, state: Tensor) -> Tensor:
        return torch.zeros(state.shape, dtype=state.dtype, device=self.unembedding.weight.device)

    def normed(self, hidden: Tensor) -> Tensor:
        """What the head's map is given, [..., d_model], of states [..., d_model]."""
        hidden = hidden.to(self.unembedding.weight.device)
        if self.map is not None:
            hidden = hidden + (hidden @ self.map[0] + self.map[1])
        return self.unembedding.normed(hidden)
