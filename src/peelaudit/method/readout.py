"""Readouts: what turns hidden states into next-token losses (docs/method.md, Read-outs).

    own     the model's final norm and head, frozen
    refit   the model's final norm, and a linear head trained with cross-entropy from the model's own, tempered
    lens    a ridge map from the state to h_L, then the model's own norm and head

Trained states and reference states go through the same procedure: same tokens, same batches in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.forward import jvp
from peelaudit.method.linalg.moments import Moments, accumulation_dtype
from peelaudit.method.linalg.ridge import best_penalty, factorise
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import NO_TARGET, TokenRows, batches
from peelaudit.network.unembedding import Unembedding
from peelaudit.settings.audit import ReadoutKind

__all__ = ["Readout", "ReadoutFactory", "Unembedding", "token_losses"]

LOGIT_BYTES = 64 << 20
"""About as much memory as the logits of one batch may take. More is no faster."""

TEMPERATURE_REACH = math.log(4)
"""How far from 1 a temperature is looked for, as a logarithm."""
TEMPERATURE_LOOKS = 9
"""Looks at *select* after the first two: to 1 %."""
GOLDEN = (math.sqrt(5) - 1) / 2

REFIT_BATCH_TOKENS = 512
REFIT_STEP = 0.003
"""Adam's step, relative to the root mean square of the head's own weights."""
REFIT_ROUND_STEPS = 20
"""Steps between two looks at *select*, or an epoch if that is more."""
REFIT_ROUNDS = 30
REFIT_LEAST_GAIN = 1e-3
"""Nats/token on *select* that a round must gain to be followed by another one."""


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

    @torch.no_grad()
    def each(self, state: Tensor, targets: Tensor, index: Tensor, what: str) -> Tensor:
        """The same of every prediction by itself, [n, positions - 1] float64; 0 where nothing is to be predicted."""
        result = torch.empty(len(index), targets.shape[1] - 1, dtype=torch.float64)
        for part in batches(slice(0, len(index)), targets.shape[1], self.batch_tokens):
            chosen = index[part]
            logits = self._logits(state[chosen, :-1])
            result[part] = token_losses(logits, targets[chosen, 1:].to(logits.device)).cpu().double()
        if not result.isfinite().all():
            raise NonFiniteResult(f"{what}: the loss is NaN or Inf under the readout {self.kind!r}")
        return result

    @property
    def batch_tokens(self) -> int:
        """How many tokens' logits are made at once."""
        return max(1, LOGIT_BYTES // (4 * len(self.unembedding.weight)))

    def gradient(self, state: Tensor, targets: Tensor) -> Tensor:
        """The gradient at a state, [sequences, positions, d_model], of the cross-entropy summed over all predictions.

        Args:
            state: [sequences, positions, d_model]
            targets: [sequences, positions], as in `losses`.
        """
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
        hidden, turn = (t.detach().to(self.unembedding.weight.device)[:, :-1] for t in (state, tangent))
        logits, moved = jvp(self._logits, (hidden,), (turn,))
        p = logits.softmax(dim=-1)
        moved -= (p * moved).sum(dim=-1, keepdim=True)
        if (targets[:, 1:] == NO_TARGET).any():
            moved *= (targets[:, 1:, None] != NO_TARGET).to(moved)
        return p, moved

    def _logits(self, hidden: Tensor) -> Tensor:
        hidden = hidden.to(self.unembedding.weight.device)
        if self.map is not None:
            hidden = hidden + (hidden @ self.map[0] + self.map[1])
        return self.unembedding.logits(hidden)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, [sequences, positions], of logits [sequences, positions, vocabulary].

    torch's cross_entropy copies the logits once, and is five times faster than a logsumexp (measured on a CPU).
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


class ReadoutFactory:
    """Fits readouts of any kind to states, always by the same procedure.

    Args:
        decoder: whose norm and head are the model's own.
        data: the tokens and the splits.
        final: h_L, what a lens maps to.
        seed: of the minibatches of `refit`.
    """

    def __init__(self, decoder: Decoder, data: TokenRows, final: Tensor, *, seed: int) -> None:
        self.own = Readout("own", Unembedding.of(decoder))
        self._data, self._final, self._seed = data, final, seed
        self._exponent: float | None = None
        """The log of the temperature that the own head's logits want at h_L, once it was looked for."""

    def fit(self, kind: ReadoutKind, state: Tensor, what: str) -> Readout:
        """A readout of this kind for a state [sequences, positions, d_model]: fitted on *fit*, chosen on *select*.

        Raises:
            NonFiniteResult: naming `what`.
        """
        fitters: dict[ReadoutKind, Callable[[], Readout]] = {
            "own": lambda: self.own,
            "lens": lambda: self._lens(state),
            "refit": lambda: self._refit(state, what),
        }
        return fitters[kind]()

    def tempered(self, state: Tensor, what: str) -> tuple[float, Readout]:
        """The temperature that the own head's logits want at a state, least loss on *select*, and the head with it.

        Above 1 the network is over-confident, as one that is over-fitted is.

        Raises:
            NonFiniteResult: naming `what`.
        """
        known = self._exponent if state is self._final else None
        exponent = self._wanted(state, what) if known is None else known
        if state is self._final:
            self._exponent = exponent
        return math.exp(exponent), self._scaled(exponent)

    def _scaled(self, exponent: float) -> Readout:
        return replace(self.own, unembedding=self.own.unembedding.scaled(math.exp(-exponent)))

    def _wanted(self, state: Tensor, what: str) -> float:
        """The log of the temperature of least loss on *select*, by golden sections."""

        def loss(exponent: float) -> float:
            return self._select_loss(self._scaled(exponent), state, what)

        low, high = -TEMPERATURE_REACH, TEMPERATURE_REACH
        at = [high - GOLDEN * (high - low), low + GOLDEN * (high - low)]
        found = [loss(point) for point in at]
        for _ in range(TEMPERATURE_LOOKS):
            if found[0] <= found[1]:
                high, at = at[1], [at[1] - GOLDEN * (at[1] - low), at[0]]
                found = [loss(at[0]), found[0]]
            else:
                low, at = at[0], [at[1], at[0] + GOLDEN * (high - at[0])]
                found = [found[1], loss(at[1])]
        return at[0] if found[0] <= found[1] else at[1]

    @torch.no_grad()
    def _lens(self, state: Tensor) -> Readout:
        """The ridge map of the residual h_L - z from z, both less their means; no map where none helps on *select*."""
        width, rows = state.shape[-1], self._data.rows
        z_mean, r_mean = self._means(state)
        fit, select = (self._lens_moments(state, split, z_mean, r_mean) for split in (rows.fit, rows.select))
        factorisation = factorise(fit.gram, fit.rows)
        penalty, error = best_penalty(factorisation, fit.cross[0], select, 0)
        unshifted = self._lens_moments(state, rows.select, torch.zeros(width), torch.zeros(width)).square
        if float(unshifted[0]) <= error:
            return replace(self.own, kind="lens")
        matrix = torch.zeros(width, width, dtype=fit.gram.dtype, device=fit.gram.device)
        if penalty is not None:
            matrix = factorisation.solve(fit.cross[0], penalty).value
        offset = r_mean.to(matrix) - z_mean.to(matrix) @ matrix
        return Readout("lens", self.own.unembedding, (matrix.to(state.dtype), offset.to(state.dtype)))

    def _means(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """[d_model] float64: the means over *fit* of z and of h_L - z."""
        fit = self._data.rows.fit
        z, h = (torch.stack([s.double().mean(dim=0) for s in part[fit]]).mean(dim=0) for part in (state, self._final))
        return z, h.to(z.device) - z

    def _lens_moments(self, state: Tensor, rows: slice, z_mean: Tensor, r_mean: Tensor) -> Moments:
        width = state.shape[-1]
        moments = Moments(width, width, 1, self.own.unembedding.weight.device)
        for part in batches(rows, state.shape[1]):
            z, h = (s[part].reshape(-1, width).to(moments.gram) for s in (state, self._final))
            moments.add(z - z_mean.to(z), [h - z - r_mean.to(z)])
        return moments

    def _refit(self, state: Tensor, what: str) -> Readout:
        """A head by Adam on the cross-entropy from the model's own, the best on *select* of those after each round.

        It starts at the temperature that the own head wants there: Adam's steps, relative to the weights, are slow to
        scale all of them. It stops at the first round that gains less than `REFIT_LEAST_GAIN`.
        """
        targets = self._data.targets(slice(None))
        starts = [replace(head, kind="refit") for head in (self.own, self.tempered(state, what)[1])]
        losses = [self._select_loss(start, state, what) for start in starts]
        least = min(losses)
        best = starts[losses.index(least)]
        heads = [[w for w in (h.unembedding.weight, h.unembedding.bias) if w is not None] for h in (best, self.own)]
        weights, own = heads
        weights = [w.detach().to(torch.promote_types(w.dtype, torch.float32), copy=True) for w in weights]
        optimizer = torch.optim.Adam(
            [{"params": [w.requires_grad_()], "lr": REFIT_STEP * _size(o)} for w, o in zip(weights, own, strict=True)],
            betas=(0.9, 0.95),
            fused=True,  # a head is large: one pass over it instead of ten
        )
        head = replace(best.unembedding, weight=weights[0], bias=weights[1] if len(weights) > 1 else None)
        batches_of_fit = self._shuffled(max(1, REFIT_BATCH_TOKENS // targets.shape[1]))
        for _ in range(REFIT_ROUNDS):
            for chosen in next(batches_of_fit):
                self._head_step(head, optimizer, state[chosen, :-1], targets[chosen, 1:])
            loss = self._select_loss(Readout("refit", head), state, what)
            gain, least = least - loss, min(least, loss)
            if gain > 0:
                kept = [w.detach().clone() for w in weights]
                unembedding = replace(head, weight=kept[0], bias=kept[1] if len(kept) > 1 else None)
                best = Readout("refit", unembedding)
            if gain < REFIT_LEAST_GAIN:
                break
        return best

    def _shuffled(self, size: int) -> Iterator[list[Tensor]]:
        """Rounds of minibatches: indices of `size` sequences of *fit*, whole epochs of them."""
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            steps: list[Tensor] = []
            while len(steps) < REFIT_ROUND_STEPS:
                order = torch.randperm(self._data.rows.fit.stop, generator=generator)
                steps += torch.split(order, size)
            yield steps

    @staticmethod
    def _head_step(head: Unembedding, optimizer: torch.optim.Optimizer, state: Tensor, targets: Tensor) -> None:
        with torch.enable_grad():
            logits = head.logits(state)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten().to(logits.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _select_loss(self, readout: Readout, state: Tensor, what: str) -> float:
        """nats/token on *select*."""
        rows = self._data.rows.select
        losses = readout.losses(state, self._data.targets(slice(None)), torch.arange(rows.start, rows.stop), what)
        return float(losses.sum()) / int(self._data.predictions(rows).sum())


def _size(weight: Tensor) -> float:
    """Root mean square; 1 for a tensor of zeros, such as a fresh bias."""
    size = float(weight.detach().to(accumulation_dtype(weight.device)).square().mean().sqrt())
    return size if size > 0 else 1.0
