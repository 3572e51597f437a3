"""A model's loss by transformers alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mean_loss(model: torch.nn.Module, tokens: Tensor, context: int) -> float:
    """Returns nats/token over 32 windows, side by side."""
    inputs, targets = tokens[: 32 * context].view(32, context), tokens[1 : 32 * context + 1].view(32, context)
    with torch.no_grad():
        logits = model(input_ids=inputs, use_cache=False).logits
    return float(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, [sequences, positions], of logits [sequences, positions, vocabulary]."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
