"""What a network computed, counted where it does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["Work"]

_PARTS = 1 << 20


class Work:
    """What blocks and heads computed: a derivative along a direction is another forward pass, a backward pass two, of a
    head one, for its weights have no gradient.

    Attributes:
        blocks: forward passes of one block over one sequence.
        head: forward passes of the head over one token.
    """

    def __init__(self) -> None:
        self.blocks = 0.0
        self.head = 0.0

    def add(self, passes: float) -> None:
        """So many passes more of one block over a sequence."""
        self.blocks += _counted(passes)

    def read(self, tokens: float) -> None:
        """So many passes more of the head over a token."""
        self.head += _counted(tokens)

    @contextlib.contextmanager
    def counted_before(self, *, was: bool = True) -> Iterator[None]:
        """Around what is computed once more and counts once alone; as if it weren't there unless it `was`."""
        blocks, head = self.blocks, self.head
        yield
        if was:
            self.blocks, self.head = blocks, head


def _counted(passes: float) -> float:
    """In millionths, as parts of two: their sums are exact, and the same in any order."""
    return round(passes * _PARTS) / _PARTS
