"""The losses of networks that are made of two: some parts of BASE, the others of NEW.

A network is named by the set of places (`peelaudit.network.counterparts.Place`) that are NEW's. One goes along with
BASE, or with NEW, up to where it first departs from it: its state there is theirs, and only the blocks above are
computed. All go up together, a block of each checkpoint at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.readouts.cross_entropy import Exponentials
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.block import Block
from peelaudit.network.counterparts import Counterparts
from peelaudit.network.states import StateStore, TokenRows, apply_block, asked, embedded
from peelaudit.network.unembedding import Unembedding
from peelaudit.progress import SILENT, Progress

__all__ = ["BASE", "Outcome", "Swaps"]

Mix = frozenset[int]
"""The places that are NEW's."""
BASE: Mix = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a network made of some sequences: its loss, and the distance of BASE's predictions from its own, KL(BASE,
    it), both [sequences] in nats, summed over each one's predictions.
    """

    losses: Losses
    kl: Losses


class Swaps:
    """Networks made of two.

    Args:
        pair: the two.
        data: the tokens.
        store: where states go.
        progress: told of each block.
    """

    def __init__(self, pair: Counterparts, data: TokenRows, store: StateStore, progress: Progress = SILENT) -> None:
        self._base, self._new, self._differing = pair.base, pair.new, pair.differing
        self._data, self._store, self._progress = data, store, progress
        self._layers = pair.base.n_layers

    @property
    def new(self) -> Mix:
        """NEW itself: all places at which the two differ."""
        return self._differing

    def reduced(self, places: Collection[int]) -> Mix:
        """The network whose `places` are NEW's: those of them at which the two differ."""
        return self._differing.intersection(places)

    def cost(self, mixes: Collection[Mix]) -> float:
        """Forward passes of the whole network for each sequence, by the weights that a token is multiplied with."""
        share = self._base.head_share
        blocks = sum(self._layers + 1 - self._branch(mix)[0] for mix in mixes)
        return (1 - share) * blocks / self._layers + share * len(mixes)

    def _branch(self, mix: Mix) -> tuple[int, bool]:
        """The first block that is given other states, or is another one, than in BASE and in NEW; whether the states
        below are NEW's. All are as in one of them below L + 1.
        """
        above = self._layers + 1
        first = min([place for place in mix if place < above], default=above)
        lacking = min([place for place in self._differing - mix if place < above], default=above)
        return (lacking, True) if lacking > first else (first, False)

    def run(self, mixes: Collection[Mix], index: NDArray[np.int64]) -> tuple[dict[Mix, Outcome], dict[Mix, Outcome]]:
        """Run BASE and NEW on all sequences, and the others on some.

        Args:
            mixes: the others; BASE and NEW may be among them.
            index: [n] the sequences for them.

        Returns:
            what BASE and NEW made of all sequences, and what all made of those.

        Raises:
            NonFiniteResult: a state or a loss became NaN or Inf.
        """
        chosen = torch.from_numpy(index)
        own, others = self._states(set(mixes) - {BASE, self._differing}, chosen)
        targets = self._data.targets(slice(None))
        self._progress.stage("read the losses", len(own) + len(others))
        whole = self._read(own, own[BASE], targets)
        some = {mix: Outcome(found.losses[index], found.kl[index]) for mix, found in whole.items()}
        return whole, some | (self._read(others, own[BASE][chosen], targets[chosen]) if others else {})

    def _states(self, mixes: Collection[Mix], chosen: Tensor) -> tuple[dict[Mix, Tensor], dict[Mix, Tensor]]:
        """The last states of BASE and NEW, of all sequences, and of the others, of those that are chosen."""
        bottom = partial(embedded, tokens=self._data.tokens, store=self._store)
        own = {BASE: bottom(self._base)}
        own[self._differing] = bottom(self._new) if 0 in self._differing else own[BASE]
        branches = {mix: self._branch(mix) for mix in mixes}
        others: dict[Mix, Tensor] = {}
        self._progress.stage("swap the blocks", self._layers)
        for layer in range(1, self._layers + 2):
            for mix in (mix for mix, (first, _) in branches.items() if first == layer):
                others[mix] = self._copy(own[self._differing if branches[mix][1] else BASE][chosen])
            if layer <= self._layers:
                self._step(layer, own, others)
                self._progress.advance()
        return own, others

    def _step(self, layer: int, own: dict[Mix, Tensor], others: Mapping[Mix, Tensor]) -> None:
        """Take all states through a block, in place; NEW's own are BASE's as long as nothing differed."""
        base = self._base.block(layer)
        new = self._new.block(layer) if layer in self._differing else base
        for mix, state in others.items():
            self._apply(new if layer in mix else base, state)
        if own[self._differing] is own[BASE] and new is not base:
            own[self._differing] = self._copy(own[BASE])
        if own[self._differing] is not own[BASE]:
            self._apply(new, own[self._differing])
        self._apply(base, own[BASE])

    def _apply(self, block: Block, state: Tensor) -> None:
        what = f"layer {block.layer}"
        apply_block(block, state, state, device=self._base.device, dtype=self._base.dtype, what=what)

    def _copy(self, state: Tensor) -> Tensor:
        return self._store.empty(*state.shape).copy_(state)

    def _tail(self, mix: Mix) -> Unembedding:
        norm, head = (self._new if self._layers + place in mix else self._base for place in (1, 2))
        return replace(Unembedding.of(head), norm=norm.norm)

    @torch.no_grad()
    def _read(self, states: Mapping[Mix, Tensor], base: Tensor, targets: Tensor) -> dict[Mix, Outcome]:
        """What networks make of their last states, and BASE of its own; all [sequences, positions, d_model]."""
        tails = {mix: self._tail(mix) for mix in states}
        sums = {mix: torch.zeros(2, len(targets), dtype=torch.float64) for mix in states}
        usual = self._tail(BASE)
        for sequences, positions in asked(targets, usual.batch_tokens):
            following = targets[sequences, positions + 1].to(usual.weight.device)
            own = _Read(usual, base[sequences, positions], following)
            others = {
                mix: _Read(tails[mix], state[sequences, positions], following)
                for mix, state in states.items()
                if mix or state is not base
            }
            for words in usual.words():
                own.compare(words, others.values())
            for mix in states:
                both = own.outcome(others.get(mix, own))
                sums[mix].index_add_(1, sequences, both.double().cpu())
        self._progress.advance(len(states))
        found = {mix: Outcome(*both.numpy()) for mix, both in sums.items()}
        for outcome in found.values():
            if not (np.isfinite(outcome.losses).all() and np.isfinite(outcome.kl).all()):
                raise NonFiniteResult("the loss of a network with swapped parts is NaN or Inf")
        return found


class _Read:
    """What a network makes of last states, some words at a time, and how far another's predictions are from it.

    Args:
        tail: norm and head.
        hidden: [n, d_model] last states.
        targets: [n] the words that follow.
    """

    def __init__(self, tail: Unembedding, hidden: Tensor, targets: Tensor) -> None:
        tail.work.read(len(hidden))
        self._tail, self._normed = tail, tail.normed(hidden)
        self._expected = tail.finished(tail.expected(self._normed, targets))
        self._sums = Exponentials(targets, self._expected)
        self._beside = torch.zeros_like(self._expected)
        """[n] how much higher the other's logits are than these, weighed by the other's exponentials."""

    def compare(self, words: slice, others: Iterable[_Read]) -> None:
        """Make logits of these words, and the others' logits too."""
        logits = self._logits(words)
        weights = self._sums.add(logits.clone(), words, *(other._beside for other in others))
        for other in others:
            theirs = other._logits(words)
            other._beside += (weights * (logits - theirs)).sum(dim=1)
            other._sums.add(theirs, words)

    def outcome(self, other: _Read) -> Tensor:
        """[2, n] another's cross-entropy, and the KL divergence of its predictions from these."""
        beside = other._beside + self._sums.own * (self._expected - other._expected)
        return torch.stack((other._sums.losses, beside / self._sums.total - self._sums.less(other._sums)))

    def _logits(self, words: slice) -> Tensor:
        return self._tail.finished(self._tail.scores(self._normed, words))
