"""A head of a large vocabulary by a shortlist: the words that a text holds are summed over one by one, all others are
one word more, whose log is linear in what the head's map is given.

The sum over all words is then made once, where states are known, and each look near them costs as much as the
shortlist is long. What is left out is how much the others differ from one another along the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from peelaudit.errors import NonFiniteResult
from peelaudit.method.readouts.cross_entropy import Exponentials
from peelaudit.method.readouts.readout import Readout
from peelaudit.network.states import NO_TARGET, StateStore, asked

__all__ = ["FEW_WORDS", "Nearby", "Rest", "held_words", "summed_rest"]

FEW_WORDS = 4096
"""Vocabularies up to this one have no shortlist."""
BESIDE = 2
"""Of a token, what is there beside its logits: so many times the width counts as logits when it is said how many tokens
go at once."""
SHORT = 1 / 4
"""The share of a vocabulary that a shortlist is at most where a text is only looked at."""


class Rest(NamedTuple):
    """The words beside a shortlist, of each prediction of some sequences.

    Attributes:
        logs: [sequences, positions - 1] the log of their summed exponentials.
        pulls: [sequences, positions - 1, d_model] its derivative by what the head's map is given.
    """

    logs: Tensor
    pulls: Tensor


def held_words(targets: Tensor) -> Tensor:
    """Those that tokens [sequences, positions] are to be predicted as, ascending."""
    expected = targets[:, 1:]
    words: Tensor = torch.unique(expected[expected != NO_TARGET])
    return words


@torch.no_grad()
def summed_rest(
    readout: Readout,
    state: Tensor,
    targets: Tensor,
    words: Tensor,
    store: StateStore,
    *,
    beside: Readout | None = None,
) -> tuple[Rest, NDArray[np.float64] | None]:
    """The words beside a shortlist; and [sequences] the losses of another readout, that differs by a temperature alone.

    Args:
        readout: what reads the states.
        state: [sequences, positions, d_model]
        targets: [sequences, positions], `NO_TARGET` where nothing is to be predicted.
        words: the shortlist, ascending.
        store: where it goes.
        beside: that other one.

    Raises:
        NonFiniteResult: a loss of that one is NaN or Inf.
    """
    head, (sequences, positions, width) = readout.unembedding, state.shape
    wide = torch.promote_types(head.weight.dtype, torch.float32)
    found = Rest(
        store.empty(sequences, positions - 1, dtype=wide), store.empty(sequences, positions - 1, width)
    )  # fmt: skip
    losses = torch.zeros(sequences, dtype=torch.float64)
    parts = list(head.words())
    bounds = torch.searchsorted(words, torch.tensor([part.start for part in parts[1:]], dtype=torch.long))
    held = torch.tensor_split(words.to(head.weight.device), bounds.tolist())
    for place in asked(targets, head.batch_tokens):
        normed = readout.normed(state[place])
        head.work.read(2 * len(normed))
        like = torch.empty(len(normed), dtype=wide, device=normed.device)
        ours, pulled = Exponentials.of_all(like), torch.zeros_like(normed, dtype=wide)
        if beside is not None:
            expected = targets[place[0], place[1] + 1].to(normed.device)
            theirs = Exponentials(expected, beside.unembedding.finished(head.expected(normed, expected)))
        for part, some in zip(parts, held, strict=True):
            scores = head.scores(normed, part)
            if beside is not None:
                theirs.add(beside.unembedding.finished(scores.clone()), part)
            logits = head.finished(scores)
            slope = head.slope(logits)
            logits[:, some - part.start] = -torch.inf
            pulled += head.returned(ours.add(logits, part, pulled).mul_(slope), part)
        found.logs[place] = ours.log.to(found.logs)
        found.pulls[place] = (pulled / ours.total[:, None]).to(found.pulls)
        if beside is not None:
            losses.index_add_(0, place[0], theirs.losses.cpu().double())
    if beside is None:
        return found, None
    if not losses.isfinite().all():
        raise NonFiniteResult(f"the loss is NaN or Inf under the readout {beside.kind!r}")
    return found, losses.numpy()


class Nearby:
    """A readout's losses of states that are near known ones.

    Attributes:
        state: [sequences, positions, d_model] the known ones.

    Args:
        readout: what reads them.
        state: see there.
        targets: [sequences, positions], `NO_TARGET` where nothing is to be predicted.
        words: the shortlist, ascending.
        store: where what is kept of each token goes.
    """

    def __init__(self, readout: Readout, state: Tensor, targets: Tensor, words: Tensor, store: StateStore) -> None:
        self.state = state
        self._readout, self._targets, self._words = readout, targets, words
        self._rest, _ = summed_rest(readout, state, targets, words, store)
        head = readout.unembedding
        chosen = words.to(head.weight.device)
        wide = torch.promote_types(head.weight.dtype, torch.float32)
        self._weight = head.weight[chosen].to(wide)
        self._bias = None if head.bias is None else head.bias[chosen].to(wide)

    @staticmethod
    def saves(readout: Readout, words: Tensor) -> bool:
        """Whether a shortlist of these words is much shorter than the vocabulary."""
        vocabulary = len(readout.unembedding.weight)
        return vocabulary > FEW_WORDS and len(words) <= SHORT * vocabulary

    @torch.no_grad()
    def losses(self, state: Tensor) -> NDArray[np.float64]:
        """Of other states of the same tokens, [sequences] nats, summed over each one's predictions."""
        head = self._readout.unembedding
        found = torch.zeros(len(state), dtype=torch.float64)
        for sequences, positions in self._asked():
            head.work.read(len(sequences) * len(self._words) / len(head.weight))
            known, given = (
                self._readout.normed(one[sequences, positions]).to(self._weight) for one in (self.state, state)
            )
            logits = head.finished(F.linear(given, self._weight, self._bias))
            logs, pulls = (kept[sequences, positions].to(given) for kept in self._rest)
            rest = logs + ((given - known) * pulls).sum(dim=1)
            expected = torch.searchsorted(self._words, self._targets[sequences, positions + 1]).to(given.device)
            losses = F.cross_entropy(torch.cat([logits, rest[:, None]], dim=1), expected, reduction="none")
            found.index_add_(0, sequences, losses.cpu().double())
        return found.numpy()

    def _asked(self) -> Iterator[tuple[Tensor, Tensor]]:
        head = self._readout.unembedding
        return asked(self._targets, head.memory.logit_tokens(len(self._words) + BESIDE * head.weight.shape[1]))
