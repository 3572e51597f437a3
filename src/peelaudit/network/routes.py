"""Which tokens each expert of a mixture is given, and with what weights: where a block says so, and what keeps it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Routes", "Routing", "assigned"]


class Routing(nn.Module):
    """Says which experts each token is given to: it is called with their numbers and returns their weights, both
    [tokens, experts of a token].
    """

    def forward(self, _experts: Tensor, weights: Tensor) -> Tensor:
        """The weights, as they are."""
        return weights


def assigned(experts: Tensor, count: int) -> tuple[Tensor, list[int]]:
    """The places of [tokens, experts of a token], flattened, by expert, and how many of them each of `count` has."""
    flat = experts.flatten()
    return flat.argsort(stable=True), torch.bincount(flat, minlength=count).tolist()


class Routes:
    """Which tokens each expert was given in the last call of a block, and with what weights: taps its routing."""

    def __init__(self) -> None:
        self._experts = torch.empty(0, 1, dtype=torch.long)
        self._given: list[tuple[Tensor, Tensor]] = []

    def keep(self, experts: Tensor, weights: Tensor) -> None:
        """A tap for the routing."""
        order, counts = assigned(experts, int(experts.max()) + 1)
        tokens, flat = order // experts.shape[1], weights.detach().flatten()[order, None]
        self._experts, self._given = (
            experts,
            list(zip(torch.split(tokens, counts), torch.split(flat, counts), strict=True)),
        )

    def of(self, number: int) -> tuple[Tensor, Tensor]:
        """An expert's tokens, [rows], and their weights, [rows, 1]."""
        if number < len(self._given):
            return self._given[number]
        return self._experts.new_empty(0), torch.empty(0, 1, device=self._experts.device)
