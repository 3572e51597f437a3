"""From the last hidden state to logits: final norm, head, and what a family does to logits behind it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peelaudit.network.memory import Memory
from peelaudit.network.work import Work

if TYPE_CHECKING:
    from peelaudit.network.decoder import Decoder

__all__ = ["Unembedding"]


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

    def scores(self, normed: Tensor) -> Tensor:
        """What the head's map makes of that, [..., vocabulary] float32 or wider."""
        scores = F.linear(normed, self.weight, self.bias)
        return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores

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
    def _norm_weight(self) -> Tensor:
        return next(self.norm.parameters(), self.weight)
