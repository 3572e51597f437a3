"""A head refitted by the cross-entropy, from another one (docs/method.md, Read-outs).

The head W, [vocabulary, d_model], moves to W(I + A) + R: a map A of what the final norm makes, which turns the
rows of all words together, and rows R of the words that the fit tokens hold. No few thousand tokens say more of a
hundred thousand rows. Its steps are natural-gradient ones: A's curvature is a Kronecker product, that of R the inputs'
moments and each word's own variance.

With a large vocabulary most of the work would be the sum over all words that the cross-entropy needs. Of words that the
text doesn't hold that sum is taken once, with its derivative by the map's input, and then to first order in the log;
the loss of the head that comes of it is taken in full.
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

from peelaudit.method.linalg.changes import Changes, plus
from peelaudit.method.linalg.descent import Course, Direction, best_probe, natural_steps
from peelaudit.method.linalg.kronecker import Factors
from peelaudit.method.linalg.line_search import Probe
from peelaudit.method.linalg.moments import accumulation_dtype
from peelaudit.method.readouts.readout import Readout
from peelaudit.method.readouts.shortlist import FEW_WORDS, Rest, held_words, summed_rest
from peelaudit.network.memory import batches
from peelaudit.network.states import NO_TARGET, StateStore, TokenRows
from peelaudit.network.unembedding import Unembedding

__all__ = ["refitted"]

MOST_STEPS = 8
LEAST_GAIN = 1e-3
"""Nats/token on *select* that a step must gain to be taken."""
INPUT_DAMPING = 4.0
"""Of the inputs' moments, relative to their mean eigenvalue and to width over tokens: the fewer tokens there are to
tell so many directions apart, the less is believed of each."""
ROW_DAMPING = 0.3
"""Added to each word's variance, relative to their mean."""

MAP, ROWS = (0, "map"), (0, "rows")
"""A and R: [d_model, d_model] and [d_model, words of *fit*], behind each a row for the bias of a head that has one."""


def refitted(
    head: Readout, loss: float, data: TokenRows, state: Tensor, store: StateStore, *, beside: Readout | None = None
) -> tuple[Unembedding | None, NDArray[np.float64] | None]:
    """The head by natural-gradient steps on *fit*, their lengths and number by *select*, None where none gains; and
    [sequences of *fit* and *select*] the losses of another one where they cost no pass more, else None.

    Args:
        head: where it begins.
        loss: of that one on *select*, nats/token.
        data: the tokens and the splits.
        state: [sequences, positions, d_model] what it reads.
        store: where what is kept of each token goes.
        beside: that other one, the same but for a temperature.

    Raises:
        NonFiniteResult: a loss of that one is NaN or Inf.
    """
    moving = _Moving(head, data, state, store, beside)
    course = Course(loss, loss)
    natural_steps(course, moving, MOST_STEPS, least=LEAST_GAIN)
    return moving.moved(course.changes) if course.steps else None, moving.beside


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some predictions.

    Attributes:
        inputs: [n, d_model] of the head's map.
        targets: [n] which of the words that are summed over one by one.
        rest: of each, [n] and [n, d_model]; None where these are all words.
    """

    inputs: Tensor
    targets: Tensor
    rest: Rest | None


class _Moving:
    """The loss of a head that moves, as `natural_steps` wants it.

    Args:
        readout: the head as it is.
        data: the tokens and the splits.
        state: what it reads.
        store: where what is kept of each token goes.
        beside: another head that makes the same of a state but for a temperature.
    """

    def __init__(
        self, readout: Readout, data: TokenRows, state: Tensor, store: StateStore, beside: Readout | None
    ) -> None:
        self._readout, self._head, self._data, self._state = readout, readout.unembedding, data, state
        weight, bias = self._head.weight, self._head.bias
        wide = torch.promote_types(weight.dtype, torch.float32)
        seen = slice(0, data.rows.select.stop)
        held = held_words(data.targets(seen))
        few = len(weight) <= max(FEW_WORDS, len(held))
        self._words = torch.arange(len(weight)) if few else held
        """[words] those that are summed over one by one."""
        learnt = held_words(data.targets(data.rows.fit))
        self._learnt = torch.searchsorted(self._words, learnt).to(weight.device)
        """Which of them *fit* holds."""
        chosen = self._words.to(weight.device)
        self._weight = weight[chosen].to(wide)
        self._bias = None if bias is None else bias[chosen].to(wide)
        self.beside: NDArray[np.float64] | None = None
        """[sequences of *fit* and *select*] the losses of the head beside, where all words were summed over once."""
        self._rest: Rest | None = None
        if not few:
            texts = state[seen], data.targets(seen)
            self._rest, self.beside = summed_rest(readout, *texts, held, store, beside=beside)

    @torch.no_grad()
    def direction(self, changes: Changes) -> Direction:
        """The directions of A and R."""
        width, device, wide = self._weight.shape[1], self._weight.device, accumulation_dtype(self._weight.device)
        biased = self._bias is not None
        factors = Factors(width, width, biased=biased, device=device)
        cross = torch.zeros(width + biased, len(self._learnt), dtype=wide, device=device)
        spread = torch.zeros(len(self._learnt), dtype=wide, device=device)
        tokens = 0
        for batch in self._batches(self._data.rows.fit):
            chances, slope = self._chances(batch, changes)
            learnt = chances[:, self._learnt]
            steep = slope[:, self._learnt] if isinstance(slope, Tensor) else slope
            spread += (learnt * (1 - learnt) * steep**2).sum(dim=0)
            pulled = self._pulled(chances, slope, batch)
            back = pulled @ self._weight
            self._head.work.read(len(back) * len(self._words) / len(self._head.weight))
            if batch.rest is not None:
                back += chances[:, -1:] * batch.rest.pulls
            factors.add(batch.inputs, back)
            cross += self._with_bias(batch.inputs).T @ pulled[:, self._learnt]
            tokens += len(batch.inputs)
        curvature = factors.curvature(tokens, damping=INPUT_DAMPING * width / tokens)
        cross, spread = cross / tokens, spread / tokens
        damped = (spread + ROW_DAMPING * spread.mean()).clamp(min=torch.finfo(torch.float32).tiny)
        slopes = {MAP: curvature.gradient, ROWS: cross}
        return Direction(slopes, {MAP: curvature.direction(), ROWS: -curvature.regressed(cross) / damped})

    @torch.no_grad()
    def loss(self, changes: Changes) -> float:
        """On *select*, nats/token."""
        total, tokens = 0.0, 0
        for batch in self._batches(self._data.rows.select):
            logits = self._logits(batch, changes)
            losses = F.cross_entropy(logits, batch.targets, reduction="none")
            total, tokens = total + float(losses.cpu().double().sum()), tokens + len(losses)
        return total / tokens if math.isfinite(total) else math.inf

    def search(
        self, at: Callable[[float], Changes], first: float, *, start: float, slope: float, likely: bool
    ) -> Probe:
        """At the bottoms of parabolas."""
        return best_probe(lambda step: self.loss(at(step)), first, start=start, slope=slope)

    def kept(self, direction: Changes) -> Changes:
        """They are small."""
        return {key: direction[key] for key in direction}

    def stepped(self, changes: Changes, step: Changes) -> Changes:
        """The changes after a step."""
        return self.kept(plus(changes, 1.0, step))

    @torch.no_grad()
    def moved(self, changes: Changes) -> Unembedding:
        """The head with these changes, its weight in float32 at least."""
        matrix, rows = (changes[key].to(self._weight) for key in (MAP, ROWS))
        width, words = len(self._weight.T), self._words.to(self._weight.device)[self._learnt]
        weight = self._head.weight.to(self._weight.dtype, copy=True)
        self._head.work.read(width)
        for part in batches(slice(0, len(weight)), 1, self._head.memory.tokens):
            weight[part] += self._head.weight[part].to(weight) @ matrix[:width].T
        weight[words] += rows[:width].T
        if self._head.bias is None:
            return replace(self._head, weight=weight)
        bias = self._head.bias.to(weight) + self._head.weight.to(weight) @ matrix[width]
        bias[words] += rows[width]
        return replace(self._head, weight=weight, bias=bias)

    def _logits(self, batch: _Batch, changes: Changes) -> Tensor:
        """[n, words] and one column more for the rest, if there is one."""
        inputs, bias = batch.inputs, self._bias
        self._head.work.read(len(inputs) * len(self._words) / len(self._head.weight))
        moved = torch.zeros_like(inputs)
        if changes:
            moved = self._with_bias(inputs) @ changes[MAP].to(inputs)
        scores = F.linear(inputs + moved, self._weight, bias)
        if changes:
            scores[:, self._learnt] += self._with_bias(inputs) @ changes[ROWS].to(inputs)
        logits = self._head.finished(scores)
        if batch.rest is None:
            return logits
        rest = batch.rest.logs + (moved * batch.rest.pulls).sum(dim=1)
        return torch.cat([logits, rest[:, None]], dim=1)

    def _chances(self, batch: _Batch, changes: Changes) -> tuple[Tensor, Tensor | float]:
        """The probabilities of the words, and of the rest behind them, and the slopes of the words' logits."""
        logits = self._logits(batch, changes)
        words = logits if batch.rest is None else logits[:, :-1]
        return logits.softmax(dim=1), self._head.slope(words)

    def _pulled(self, chances: Tensor, slope: Tensor | float, batch: _Batch) -> Tensor:
        """[n, words] the gradient at what the map makes of the words."""
        pulled = chances[:, : len(self._weight)].clone()
        pulled[torch.arange(len(pulled), device=pulled.device), batch.targets] -= 1
        return pulled * slope

    def _with_bias(self, inputs: Tensor) -> Tensor:
        return inputs if self._bias is None else torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)

    def _batches(self, rows: slice) -> Iterator[_Batch]:
        """The predictions of some sequences."""
        positions, place = self._state.shape[1], self._weight.device
        for part in batches(rows, positions, self._head.memory.logit_tokens(len(self._words))):
            targets = self._data.targets(part)[:, 1:]
            here = targets != NO_TARGET
            inputs = self._head.normed(self._state[part, :-1]).to(self._weight)[here.to(place)]
            rest = None
            if self._rest is not None:
                rest = Rest(*(kept[part][here.to(kept.device)].to(inputs) for kept in self._rest))
            yield _Batch(inputs, torch.searchsorted(self._words, targets[here]).to(place), rest)
