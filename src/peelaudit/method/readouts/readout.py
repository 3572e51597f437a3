"""Readouts: what turns hidden states into next-token losses (docs/method.md, Read-outs)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.forward import jvp
from peelaudit.network.memory import batches
from peelaudit.network.states import NO_TARGET
from peelaudit.network.unembedding import Unembedding
from peelaudit.settings.audit import ReadoutKind

__all__ = ["Readout", "Unembedding", "token_losses"]


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
        asked = (targets[index, 1:] != NO_TARGET).cpu()
        result = torch.zeros(len(exponents), *asked.shape, dtype=torch.float64)
        share = max(1, int(asked.sum())) / max(1, asked.numel())
        for part in batches(slice(0, len(index)), targets.shape[1], int(self.batch_tokens / share)):
            chosen, here = index[part], asked[part]
            hidden, following = state[chosen, :-1], targets[chosen, 1:]
            scores = self._scores(hidden[here.to(hidden.device)])
            self.unembedding.work.read(len(scores))
            expected = following[here.to(following.device)].to(scores.device)
            for place, exponent in enumerate(exponents):
                logits = self.unembedding.finished(scores if exponent == 0 else scores * math.exp(-exponent))
                result[place, part][here] = F.cross_entropy(logits, expected, reduction="none").cpu().double()
        if not result.isfinite().all():
            raise NonFiniteResult(f"{what}: the loss is NaN or Inf under the readout {self.kind!r}")
        return result

    @property
    def batch_tokens(self) -> int:
        """How many tokens' logits are made at once."""
        return self.unembedding.memory.logit_tokens(len(self.unembedding.weight))

    def gradient(self, state: Tensor, targets: Tensor) -> Tensor:
        """The gradient at a state, [sequences, positions, d_model], of the cross-entropy summed over all predictions.

        Args:
            state: [sequences, positions, d_model]
            targets: [sequences, positions], as in `losses`.
        """
        self._count(targets, 2)
        hidden = state.detach().to(self.unembedding.weight.device).requires_grad_()
        with torch.enable_grad():
            logits = self._logits(hidden[:, :-1])
            loss = token_losses(logits, targets[:, 1:].to(logits.device)).sum()
            return torch.autograd.grad(loss, hidden)[0]

    def curvature(self, state: Tensor, tangent: Tensor, targets: Tensor) -> Tensor:
        """The Gauss-Newton product J'(diag p - pp')J of the summed cross-entropy at a state with a change of it.

        Args:
            state: [sequences, positions, d_model]
            tangent: how the state changes, of that shape.
            targets: [sequences, positions], as in `losses`.

        Returns:
            the product, of that shape.
        """
        self._count(targets, 2)
        p, moved = self._moved(state, tangent, targets)
        hidden = state.detach().to(moved.device).requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self._logits(hidden[:, :-1]), hidden, p * moved)[0]

    def along(self, state: Tensor, tangent: Tensor, targets: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How each sequence's cross-entropy changes along a change of a state: to first order, and its Gauss-Newton
        curvature, both [sequences], in nats summed over the predictions.

        Args:
            state: [sequences, positions, d_model]
            tangent: how the state changes, of that shape.
            targets: [sequences, positions], as in `losses`.
        """
        slopes, bends = np.empty(len(state)), np.empty(len(state))
        for part in batches(slice(0, len(state)), targets.shape[1], self.batch_tokens):
            p, moved = self._moved(state[part], tangent[part], targets[part])
            slope = -moved.gather(-1, targets[part, 1:, None].clamp(min=0).to(moved.device))[..., 0]
            bend = (p * moved.square()).sum(dim=-1)
            slopes[part], bends[part] = (t.cpu().double().sum(dim=1).numpy() for t in (slope, bend))
        return slopes, bends

    @torch.no_grad()
    def _moved(self, state: Tensor, tangent: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted probabilities p, and how the logits move along a change of a state, less their mean under p,
        both [sequences, positions - 1, vocabulary]; nothing moves where nothing is to be predicted.
        """
        self._count(targets, 2)
        hidden, turn = (t.detach().to(self.unembedding.weight.device)[:, :-1] for t in (state, tangent))
        logits, moved = jvp(self._logits, (hidden,), (turn,))
        p = logits.softmax(dim=-1)
        moved -= (p * moved).sum(dim=-1, keepdim=True)
        if (targets[:, 1:] == NO_TARGET).any():
            moved *= (targets[:, 1:, None] != NO_TARGET).to(moved)
        return p, moved

    def _count(self, targets: Tensor, passes: int) -> None:
        self.unembedding.work.read(passes * targets[:, 1:].numel())

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.unembedding.finished(self._scores(hidden))

    def _scores(self, hidden: Tensor) -> Tensor:
        hidden = hidden.to(self.unembedding.weight.device)
        if self.map is not None:
            hidden = hidden + (hidden @ self.map[0] + self.map[1])
        return self.unembedding.scores(self.unembedding.normed(hidden))


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, [sequences, positions], of logits [sequences, positions, vocabulary].

    torch's cross_entropy copies the logits once, and is five times faster than a logsumexp (measured on a CPU).
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
