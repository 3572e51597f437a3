"""A change of a linear map by one of low rank, in closed form: least where the map's inputs are.

Of all D' of rank r, the one with the least E|x'(D - D')|² over inputs x with second moments C is the truncated singular
value decomposition of C^1/2 D, with C^-1/2 in front (Eckart and Young). As C^1/2 D V V' is that truncation for the r
leading right singular vectors V, D' is D V V', and no root of C has to be inverted: V are the leading eigenvectors of
D'CD.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from peelaudit.method.linalg.moments import accumulation_dtype
from peelaudit.network.block import Block
from peelaudit.network.linear import Tap, tapped

__all__ = ["input_moments", "low_rank"]


def low_rank(change: Tensor, moments: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Two factors whose product stands in for a change.

    Args:
        change: [inputs, outputs] D.
        moments: [inputs, inputs] C.
        rank: r. Beyond what the change has, the factors end in zeros.

    Returns:
        [inputs, r] D V and [r, outputs] V', in the dtype of `moments`.
    """
    change = change.to(moments)
    kept = min(rank, *change.shape)
    _, vectors = torch.linalg.eigh(change.T @ moments @ change)
    leading = vectors[:, -kept:].flip(1)
    left, right = (change.new_zeros(len(part), rank) for part in (change, leading))
    left[:, :kept], right[:, :kept] = change @ leading, leading
    return left, right.T


@contextmanager
def input_moments(block: Block, paths: Iterable[str]) -> Iterator[Mapping[str, Tensor]]:
    """[inputs, inputs] the second moments, by path, of what some of a block's maps are given in its calls as long as it
    lasts.
    """
    maps = block.linears()
    found = {
        path: torch.zeros(
            maps[path].inputs,
            maps[path].inputs,
            dtype=accumulation_dtype(maps[path].weight.device),
            device=maps[path].weight.device,
        )
        for path in paths
    }

    def tap(path: str) -> Tap:
        def add(given: Tensor, _: Tensor) -> None:
            rows = given.detach().flatten(0, -2).to(found[path])
            found[path] += rows.T @ rows

        return add

    with tapped((maps[path].module, tap(path)) for path in found):
        yield found
