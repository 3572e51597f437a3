"""From the last hidden state to logits: final norm, head, and what a family does to logits behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peelaudit.network.memory import Memory, batches
from peelaudit.network.work import Work

if TYPE_CHECKING:
    from peelaudit.network.decoder import Decoder

__all__ = ["Unembedding"]

ALL = slice(None)
FAR = 64.0
"""By how much half precision is kept from its largest number."""


@dataclass(frozen=True)
class Unembedding:
    """Final norm and head as one frozen object: `weight` [vocabulary, d_model], `bias` [vocabulary] or None.

    The logits are multiplied by `scale`, and then capped softly.
    """

    norm: nn.Module
    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    scale: float = 1.0
    work: Work = field(default_factory=Work)
    """Is told of each time that logits are made, or a derivative of them."""
    memory: Memory = field(default_factory=Memory)
    """Says how many are made at once."""

    @classmethod
    def of(cls, decoder: Decoder) -> Unembedding:
        """The model's own."""
        tail = decoder.family.tail
        head, shared = decoder.head, (decoder.work, decoder.memory)
        return cls(decoder.norm, head.weight, head.bias, tail.softcap, tail.scale, *shared)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits, [..., vocabulary] float32 or wider, of residual streams [..., d_model]."""
        return self.finished(self.scores(self.normed(hidden)))

    def normed(self, hidden: Tensor) -> Tensor:
        """What the head's map is given, [..., d_model], of residual streams [..., d_model]."""
        return cast("Tensor", self.norm(hidden.to(device=self._norm_weight.device, dtype=self._norm_weight.dtype))).to(
            self.weight.dtype
        )

    @property
    def batch_tokens(self) -> int:
        """Of how many tokens logits are made at once, of some words at a time."""
        return self.memory.logit_tokens(min(len(self.weight), self.memory.logit_words))

    def words(self) -> Iterator[slice]:
        """The vocabulary, some words at a time."""
        return batches(slice(0, len(self.weight)), 1, self.memory.logit_words)

    def scores(self, normed: Tensor, words: slice = ALL) -> Tensor:
        """What the head's map makes of that, [..., words] float32 or wider."""
        return _wide(F.linear(normed, self.weight[words], None if self.bias is None else self.bias[words]))

    def expected(self, normed: Tensor, targets: Tensor) -> Tensor:
        """The same of [n, d_model], [n], of one word each."""
        scores = (_wide(normed) * _wide(self.weight[targets])).sum(dim=1)
        if self.bias is not None:
            scores += self.bias[targets]
        return _wide(scores.to(self.weight.dtype))

    def returned(self, pull: Tensor, words: slice) -> Tensor:
        """What a gradient at the scores, [n, words], is at what the map is given, [n, d_model] float32 or wider."""
        if self.weight.dtype == torch.float16:  # a sum over many words may be beyond it
            return _wide((pull / FAR).half() @ self.weight[words]) * FAR
        return _wide(pull.to(self.weight.dtype) @ self.weight[words])

    def finished(self, scores: Tensor) -> Tensor:
        """The logits, of any words, of what the map makes of them."""
        logits = scores if self.scale == 1 else self.scale * scores
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative of the logits by what the map makes, where they are these."""
        return self.scale if self.softcap is None else self.scale * (1 - (logits / self.softcap).square())

    def scaled(self, factor: float) -> Unembedding:
        """With logits (before a soft cap) times `factor`."""
        return replace(self, scale=self.scale * factor)

    @property
    def biasless(self) -> Unembedding:
        """Without the map's bias: how scores change with what the map is given."""
        return self if self.bias is None else replace(self, bias=None)

    @property
    def _norm_weight(self) -> Tensor:
        return next(self.norm.parameters(), self.weight)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
