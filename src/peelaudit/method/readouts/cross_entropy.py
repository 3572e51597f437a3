"""The cross-entropy and its derivatives at what a head's map is given, the logits being made of some words at a time.

Sums of exponentials are kept relative to the highest logit so far, and brought to the next highest when it comes. The
expected word isn't among what is summed: what the others have of the probability keeps its digits where it is little.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from peelaudit.network.unembedding import Unembedding

__all__ = ["Exponentials", "cross_entropies", "gradients", "products", "spreads"]


class Exponentials:
    """The summed exponentials of some predictions' logits.

    Args:
        targets: [n] the expected words, -1 where none is.
        expected: [n] their logits; the least number where none is.
    """

    def __init__(self, targets: Tensor, expected: Tensor) -> None:
        self._targets, self._expected = targets, expected
        self._highest, self.others = expected.clone(), torch.zeros_like(expected)

    @classmethod
    def of_all(cls, like: Tensor) -> Exponentials:
        """Of predictions for which no word is expected, as many as there are rows."""
        none = torch.full((len(like),), -1, device=like.device)
        return cls(none, like.new_full((len(like),), torch.finfo(like.dtype).min))

    def add(self, logits: Tensor, words: slice, *sums: Tensor) -> Tensor:
        """[n, words] the exponentials relative to the highest logit so far, in the place of these logits; 0 for the
        expected word.

        Args:
            logits: [n, words]
            words: which of the vocabulary.
            sums: [n, ...] what earlier ones added up to, which is brought to the highest logit so far in its place.
        """
        place = self._targets - words.start
        inside = (place >= 0) & (place < logits.shape[1])
        place = place.clamp(0, logits.shape[1] - 1)[:, None]
        highest = torch.maximum(self._highest, logits.amax(dim=1))
        logits.scatter_(1, place, logits.gather(1, place).masked_fill(inside[:, None], -torch.inf))
        lowered = (self._highest - highest).exp_()
        for kept in (self.others, *sums):
            kept.mul_(lowered.view(-1, *[1] * (kept.ndim - 1)))
        self._highest = highest
        weights = logits.sub_(highest[:, None]).exp_()
        self.others += weights.sum(dim=1)
        return weights

    @property
    def own(self) -> Tensor:
        """[n] the expected word's, relative to the highest logit so far."""
        return (self._expected - self._highest).exp()

    @property
    def total(self) -> Tensor:
        """[n] of all words so far, relative to the same."""
        return self.others + self.own

    @property
    def log(self) -> Tensor:
        """[n] the logarithm of the summed exponentials."""
        return self._highest + self.total.log()

    def less(self, other: Exponentials) -> Tensor:
        """[n] the logarithm of the summed exponentials, less another's, which is small where they are alike."""
        return (self._highest - other._highest) + (self.total / other.total).log()

    @property
    def losses(self) -> Tensor:
        """[n] the cross-entropies, where all words were added."""
        return (self._highest - self._expected) + self.total.log()


@torch.no_grad()
def cross_entropies(head: Unembedding, normed: Tensor, targets: Tensor, factors: Sequence[float]) -> Tensor:
    """Of scores times each of these factors, [factors, n] nats.

    Args:
        head: a head.
        normed: [n, d_model] what its map is given.
        targets: [n] the expected words.
        factors: inverse temperatures.
    """
    own = head.expected(normed, targets)
    sums = [Exponentials(targets, head.finished(factor * own)) for factor in factors]
    for words in head.words():
        scores = head.scores(normed, words)
        for factor, one in zip(factors, sums, strict=True):
            tempered = scores.mul_(factor) if one is sums[-1] else factor * scores
            one.add(head.finished(tempered), words)
    return torch.stack([one.losses for one in sums])


@torch.no_grad()
def gradients(head: Unembedding, normed: Tensor, targets: Tensor) -> Tensor:
    """By what the head's map is given, [n, d_model]; arguments as in `cross_entropies`."""
    expected = head.finished(head.expected(normed, targets))
    sums, found = Exponentials(targets, expected), torch.zeros_like(normed, dtype=expected.dtype)
    for words in head.words():
        logits = head.finished(head.scores(normed, words))
        slope = head.slope(logits)
        found += head.returned(sums.add(logits, words, found).mul_(slope), words)
    found -= (sums.others * head.slope(expected))[:, None] * head.weight[targets]
    return found / sums.total[:, None]


@torch.no_grad()
def products(head: Unembedding, normed: Tensor, turn: Tensor, targets: Tensor) -> Tensor:
    """J'(diag p - pp')J of a change of what the head's map is given, [n, d_model].

    The logits are made twice, but those of the last words, for how they move is taken beside its mean.

    Args:
        head: a head.
        normed: [n, d_model] what its map is given.
        turn: [n, d_model] how that changes.
        targets: [n] the expected words.
    """
    logits = _Moved(head, normed, turn)
    sums, mean, _ = _moments(logits, targets)
    found, log = torch.zeros_like(normed, dtype=mean.dtype), sums.log[:, None]
    for words in reversed(list(head.words())):
        made, moved, slope = logits.of(words)
        pull = (made - log).exp_().mul_(moved - mean[:, None]).mul_(slope)
        found += head.returned(pull, words)
    return found


@torch.no_grad()
def spreads(head: Unembedding, normed: Tensor, turn: Tensor, targets: Tensor) -> Tensor:
    """The first and second derivative (Gauss-Newton's) of the cross-entropies along a change, [2, n]; arguments as in
    `products`.
    """
    logits = _Moved(head, normed, turn)
    sums, mean, square = _moments(logits, targets)
    return torch.stack((mean - logits.expected(targets)[1], square / sums.total))


class _Moved:
    """Logits and how they move; the last words' are kept.

    Args:
        head: a head.
        normed: [n, d_model] what its map is given.
        turn: [n, d_model] how that changes.
    """

    def __init__(self, head: Unembedding, normed: Tensor, turn: Tensor) -> None:
        self.head, self._normed, self._turn = head, normed, turn
        self._kept: tuple[slice, tuple[Tensor, Tensor, Tensor | float]] | None = None

    def of(self, words: slice) -> tuple[Tensor, Tensor, Tensor | float]:
        """[n, words] the logits, how they move, and their slopes by the scores."""
        if self._kept is None or self._kept[0] != words:
            self._kept = None
            logits = self.head.finished(self.head.scores(self._normed, words))
            slope = self.head.slope(logits)
            self._kept = words, (logits, self.head.biasless.scores(self._turn, words).mul_(slope), slope)
        return self._kept[1]

    def expected(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """[n] the expected words' logits, and how they move."""
        logits = self.head.finished(self.head.expected(self._normed, targets))
        return logits, self.head.biasless.expected(self._turn, targets) * self.head.slope(logits)


def _moments(logits: _Moved, targets: Tensor) -> tuple[Exponentials, Tensor, Tensor]:
    """The summed exponentials, the mean of how logits move under the probabilities, and the sum of squares about it,
    relative to the highest logit; all [n]. Those of some words are merged with those of the words before.
    """
    expected, own = logits.expected(targets)
    sums, mean, square = Exponentials(targets, expected), torch.zeros_like(expected), torch.zeros_like(expected)
    least = torch.finfo(mean.dtype).tiny
    for words in logits.head.words():
        made, moved, _ = logits.of(words)
        weights = sums.add(made.clone(), words, square)
        here = weights.sum(dim=1)
        middle = (weights * moved).sum(dim=1) / here.clamp(min=least)
        square += weights.mul_((moved - middle[:, None]).square_()).sum(dim=1)
        share, apart = here / sums.others.clamp(min=least), middle - mean
        mean += apart * share
        square += apart.square() * (sums.others - here).clamp(min=0) * share
    share, apart = sums.own / sums.total, own - mean
    return sums, mean + apart * share, square + apart.square() * sums.others * share
