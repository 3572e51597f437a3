"""How a tensor differs from its counterpart in another checkpoint: a little everywhere, or in one of the ways in which
conversions break.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from peelaudit.checkpoints.gguf_undo import Heads, paired_queries
from peelaudit.records.difference import ChangeKind

__all__ = ["GROSS", "Likeness", "likeness"]

GROSS = 0.5
"""The size of a difference from which on another order of rows or columns is looked for: 2 bits make one of 0.4."""
EXPLAINED = 0.1
"""What a constant may leave of a difference, relative to its root mean square, to be what the tensors differ by."""
REORDERED = 0.4
"""The same for another order, where rounding comes on top: to 2 bits it leaves 0.3."""
NOTHING_COMMON = 0.1
"""The cosine of two matrices that have nothing in common is less."""
FEWEST_VALUES = 4
"""In a tensor, for a constant to be found."""
MOST_ROWS = 32_768
"""Of a matrix whose order is looked for."""
_SKETCH = 64
"""Numbers that stand for a row while its counterpart is sought."""
_CHUNK = 1 << 22
"""Values that are summed at once in float64."""

Order = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Likeness:
    """What two tensors have in common; see `TensorChange`."""

    kind: ChangeKind
    size: float
    constant: float | None = None


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of a tensor a, another one b and their difference d = b - a, over all `count` values."""

    count: int
    aa: float
    bb: float
    d: float
    dd: float
    da: float

    @classmethod
    def of(cls, one: Tensor, other: Tensor) -> _Sums:
        sums = torch.zeros(5, dtype=torch.float64)
        for a, b in _chunks(one, other):
            d = b - a
            sums += torch.stack((a @ a, b @ b, d.sum(), d @ d, d @ a))
        return cls(one.numel(), *sums.tolist())

    @property
    def size(self) -> float:
        """See `TensorChange.size`."""
        return math.sqrt(2 * self.dd / (self.aa + self.bb)) if self.aa + self.bb else 0.0

    @property
    def cosine(self) -> float:
        both = math.sqrt(self.aa * self.bb)
        return (self.aa + self.bb - self.dd) / 2 / both if both else 0.0


def likeness(base: Tensor, new: Tensor, heads: Sequence[int]) -> Likeness | None:
    """How a tensor differs from BASE's, of the same shape; None where it is the same.

    Args:
        base: BASE's.
        new: NEW's.
        heads: how many there may be of queries, and of keys.
    """
    sums = _Sums.of(base, new)
    if not sums.dd:
        return None
    if sums.count >= FEWEST_VALUES and (found := _constant(sums)) is not None:
        return found
    if sums.size > GROSS and (kind := _reordered(base, new, heads, sums.dd)) is not None:
        return Likeness(kind, sums.size)
    unrelated = base.ndim > 1 and abs(sums.cosine) < NOTHING_COMMON and sums.aa > 0 < sums.bb
    return Likeness(ChangeKind.UNRELATED if unrelated else ChangeKind.CHANGED, sums.size)


def _constant(sums: _Sums) -> Likeness | None:
    """A constant that was added, or that it was multiplied by, whichever leaves less."""
    shift, growth = sums.d / sums.count, sums.da / sums.aa if sums.aa else 0.0
    shifted, scaled = sums.dd - sums.d * shift, sums.dd - sums.da * growth
    if min(shifted, scaled) > EXPLAINED**2 * sums.dd:
        return None
    if shifted <= scaled:
        return Likeness(ChangeKind.SHIFTED, sums.size, shift)
    return Likeness(ChangeKind.SCALED, sums.size, 1 + growth)


def _reordered(base: Tensor, new: Tensor, heads: Sequence[int], squared: float) -> ChangeKind | None:
    """The other order in which NEW's values are BASE's; `squared` is the plain difference's sum of squares."""
    for kind, order in _orders(base, new, heads):
        if _Sums.of(order(base), new).dd <= REORDERED**2 * squared:
            return kind
    return None


def _orders(base: Tensor, new: Tensor, heads: Sequence[int]) -> Iterator[tuple[ChangeKind, Order]]:
    """What may have been done, the likelier before the more general."""
    rows = len(base)
    for count in dict.fromkeys(heads):
        if rows % (2 * count) == 0 and rows > 2 * count:
            halves = paired_queries(torch.arange(rows), Heads(count, count))
            yield ChangeKind.PAIRED, partial(_rows_in, halves.argsort())
            yield ChangeKind.HALVED, partial(_rows_in, halves)
    if base.ndim < 2:
        return
    if base.ndim == 2 and base.shape[0] == base.shape[1]:
        yield ChangeKind.TRANSPOSED, lambda tensor: tensor.T
    if (order := _order(base.flatten(0, -2), new.flatten(0, -2))) is not None:
        yield ChangeKind.ROWS, lambda tensor: tensor.flatten(0, -2)[order].view(tensor.shape)
    if (across := _order(base.flatten(0, -2).T, new.flatten(0, -2).T)) is not None:
        yield ChangeKind.COLUMNS, lambda tensor: tensor[..., across]


def _rows_in(order: Tensor, tensor: Tensor) -> Tensor:
    return tensor[order]


def _order(base: Tensor, new: Tensor) -> Tensor | None:
    """Which row of BASE's each of NEW's is most like, [rows]; None where that is no permutation, or they are too many.

    Rows are compared by their products with a few random vectors, which keep angles about as they are.
    """
    rows, columns = base.shape
    if rows > MOST_ROWS:
        return None
    generator = torch.Generator().manual_seed(0)
    sketch = torch.randn(columns, _SKETCH, generator=generator).to(base.device) if columns > _SKETCH else None
    ours, theirs = (_directions(matrix, sketch) for matrix in (base, new))
    order = torch.cat([(part @ ours.T).argmax(dim=1) for part in torch.split(theirs, 1024)])
    return order if len(torch.unique(order)) == rows else None


def _directions(matrix: Tensor, sketch: Tensor | None) -> Tensor:
    rows = matrix.float() if sketch is None else matrix.float() @ sketch
    return torch.nn.functional.normalize(rows, dim=1)


def _chunks(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both as float64, so many values at a time."""
    for a, b in zip(*(torch.split(tensor.reshape(-1), _CHUNK) for tensor in (one, other)), strict=True):
        yield a.double(), b.double()
