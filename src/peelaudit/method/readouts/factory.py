"""Fits readouts of any kind to states.

    own     the model's final norm and head, frozen
    refit   the model's final norm, and a linear head moved by the cross-entropy from the model's own, tempered, or
            for another state than h_L from the head of h_L, whichever is best there
    lens    a ridge map from the state to h_L, then the model's own norm and head

Trained states and reference states are fitted to the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.moments import Moments
from peelaudit.method.linalg.ridge import best_penalty, factorise
from peelaudit.method.readouts.head import refitted
from peelaudit.method.readouts.readout import Readout
from peelaudit.method.readouts.temperature import wanted
from peelaudit.network.decoder import Decoder
from peelaudit.network.memory import batches
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.network.unembedding import Unembedding
from peelaudit.settings.audit import ReadoutKind

__all__ = ["ReadoutFactory"]


class ReadoutFactory:
    """Fits readouts of any kind to states.

    Args:
        decoder: whose norm and head are the model's own.
        data: the tokens and the splits.
        final: h_L, what a lens maps to.
        store: where what is kept of each token goes.
    """

    def __init__(self, decoder: Decoder, data: TokenRows, final: Tensor, store: StateStore) -> None:
        self.own = Readout("own", Unembedding.of(decoder))
        self._data, self._final, self._store = data, final, store
        self._exponent: float | None = None
        """The log of the temperature that the own head's logits want at h_L, once it was looked for."""
        self._refitted: Readout | None = None
        """The head that was refitted to h_L, once it was."""

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
        rows = self._data.rows.select
        exponent = wanted(self.own, state[rows], self._data.targets(rows), what) if known is None else known
        if state is self._final:
            self._exponent = exponent
        return math.exp(exponent), replace(self.own, unembedding=self.own.unembedding.scaled(math.exp(-exponent)))

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
        for part in batches(rows, state.shape[1], self.own.unembedding.memory.tokens):
            z, h = (s[part].reshape(-1, width).to(moments.gram) for s in (state, self._final))
            moments.add(z - z_mean.to(z), [h - z - r_mean.to(z)])
        return moments

    def _refit(self, state: Tensor, what: str) -> Readout:
        """A head moved by the cross-entropy: the best on *select* of the model's own, that at the temperature which it
        wants there and that of h_L, and the best of them moved.
        """
        heads = [self.own, self.tempered(state, what)[1]]
        if state is not self._final:
            return self._moved(heads if self._refitted is None else [*heads, self._refitted], state, what)
        if self._refitted is None:
            self._refitted = self._moved(heads, state, what)
        return self._refitted

    def _moved(self, heads: Sequence[Readout], state: Tensor, what: str) -> Readout:
        """The head that is best on *select*, moved from there if that helps."""
        starts = [replace(head, kind="refit") for head in heads]
        losses = [self._select_loss(start, state, what) for start in starts]
        least = min(losses)
        best = starts[losses.index(least)]
        try:
            moved = refitted(best, least, self._data, state, self._store)
        except NonFiniteResult as error:
            raise NonFiniteResult(f"{what}: {error}") from error
        if moved is None:
            return best
        found = Readout("refit", moved)
        return found if self._select_loss(found, state, what) < least else best

    def _select_loss(self, readout: Readout, state: Tensor, what: str) -> float:
        """nats/token on *select*."""
        rows = self._data.rows.select
        losses = readout.losses(state, self._data.targets(slice(None)), torch.arange(rows.start, rows.stop), what)
        return float(losses.sum()) / int(self._data.predictions(rows).sum())
