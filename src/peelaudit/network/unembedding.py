"""From the last hidden state to logits: final norm, head, and what a family does to logits behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

    @classmethod
    def of(cls, decoder: Decoder) -> Unembedding:
        """The model's own."""
        tail = decoder.family.tail
        return cls(decoder.norm, decoder.head.weight, decoder.head.bias, tail.softcap, tail.scale)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits, [..., vocabulary] float32 or wider, of residual streams [..., d_model]."""
        normed = self.norm(hidden.to(device=self._norm_weight.device, dtype=self._norm_weight.dtype))
        logits = F.linear(normed.to(self.weight.dtype), self.weight, self.bias)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        logits = logits if self.scale == 1 else self.scale * logits
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def scaled(self, factor: float) -> Unembedding:
        """With logits (before a soft cap) times `factor`."""
        return replace(self, weight=self.weight * factor, bias=None if self.bias is None else self.bias * factor)

    @property
    def _norm_weight(self) -> Tensor:
        return next(self.norm.parameters(), self.weight)
