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
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.moments import Moments
from peelaudit.method.linalg.ridge import Ridge
from peelaudit.method.readouts.head import refitted
from peelaudit.method.readouts.readout import Readout
from peelaudit.method.readouts.temperature import Wanted, wanted
from peelaudit.network.decoder import Decoder
from peelaudit.network.memory import batches
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.network.unembedding import Unembedding
from peelaudit.settings.audit import ReadoutKind

__all__ = ["FinalLosses", "ReadoutFactory"]


class FinalLosses(NamedTuple):
    """What the own head makes of h_L.

    Attributes:
        own: [sequences] nats.
        temperature: that its logits want, of least loss on *select*; above 1 the network is over-confident, as one that
            is over-fitted is.
        tempered: [sequences of *held-out*] nats with that.
    """

    own: NDArray[np.float64]
    temperature: float
    tempered: NDArray[np.float64]


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
        self._asked: Wanted | None = None
        """What the own head's logits want at h_L, once it was looked for."""
        self._swept: NDArray[np.float64] | None = None
        """[sequences of *fit* and *select*] the losses of h_L under the own head, once they are known."""
        self._found: FinalLosses | None = None
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

    def final_losses(self, what: str) -> FinalLosses:
        """Those of h_L under the own head.

        Raises:
            NonFiniteResult: naming `what`.
        """
        if self._found is None:
            targets, rows = self._data.targets(slice(None)), self._data.rows
            exponent, before = self._wanted(self._final, what).exponent, rows.held_out.start
            if self._swept is None:
                self._swept = self.own.losses(self._final, targets, torch.arange(before), what)
            held_out = torch.arange(before, rows.held_out.stop)
            plain, tempered = (
                self.own.tempered(self._final, targets, held_out, (0.0, exponent), what).sum(dim=2).numpy()
            )
            self._found = FinalLosses(np.concatenate([self._swept, plain]), math.exp(exponent), tempered)
        return self._found

    def _wanted(self, state: Tensor, what: str) -> Wanted:
        """What the own head's logits want at a state, by *select*."""
        if state is self._final and self._asked is not None:
            return self._asked
        rows = self._data.rows.select
        index = torch.arange(rows.start, rows.stop)
        found = wanted(self.own, state, self._data.targets(slice(None)), index, what)
        if state is self._final:
            self._asked = found
        return found

    @torch.no_grad()
    def _lens(self, state: Tensor) -> Readout:
        """The ridge map of the residual h_L - z from z, both less their means; no map where none helps on *select*."""
        width, rows = state.shape[-1], self._data.rows
        z_mean, r_mean = self._means(state)
        fit, select = (self._lens_moments(state, split, z_mean, r_mean) for split in (rows.fit, rows.select))
        (solution,) = Ridge(fit.gram, fit.rows).best(fit.cross, select)
        error = float(select.square[0]) if solution is None else solution.error
        unshifted = self._lens_moments(state, rows.select, torch.zeros(width), torch.zeros(width)).square
        if float(unshifted[0]) <= error:
            return replace(self.own, kind="lens")
        matrix = torch.zeros_like(fit.cross[0]) if solution is None else solution.value
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
            z, h = (s[part].reshape(-1, width).to(moments.cross) for s in (state, self._final))
            moments.add(z - z_mean.to(z), [h - z - r_mean.to(z)])
        return moments

    def _refit(self, state: Tensor, what: str) -> Readout:
        """A head moved by the cross-entropy: the best on *select* of the model's own, that at the temperature which it
        wants there and that of h_L, and the best of them moved.
        """
        exponent, plain = self._wanted(state, what)
        tempered = replace(self.own, unembedding=self.own.unembedding.scaled(math.exp(-exponent)))
        heads = [(self.own, plain / self._predictions()), (tempered, self._select_loss(tempered, state, what))]
        if state is self._final:
            if self._refitted is None:
                self._refitted = self._moved(heads, state, what)
            return self._refitted
        if self._refitted is not None:
            heads.append((self._refitted, self._select_loss(self._refitted, state, what)))
        return self._moved(heads, state, what)

    def _moved(self, heads: Sequence[tuple[Readout, float]], state: Tensor, what: str) -> Readout:
        """The head that is best on *select*, moved from there if that helps; of heads with their losses there."""
        head, least = min(heads, key=lambda one: one[1])
        start = replace(head, kind="refit")
        beside = self.own if state is self._final else None
        try:
            moved, swept = refitted(start, least, self._data, state, self._store, beside=beside)
        except NonFiniteResult as error:
            raise NonFiniteResult(f"{what}: {error}") from error
        if beside is not None:
            self._swept = swept
        if moved is None:
            return start
        found = Readout("refit", moved)
        return found if self._select_loss(found, state, what) < least else start

    def _select_loss(self, readout: Readout, state: Tensor, what: str) -> float:
        """nats/token on *select*."""
        rows = self._data.rows.select
        losses = readout.losses(state, self._data.targets(slice(None)), torch.arange(rows.start, rows.stop), what)
        return float(losses.sum()) / self._predictions()

    def _predictions(self) -> int:
        """How many *select* has."""
        return int(self._data.predictions(self._data.rows.select).sum())
