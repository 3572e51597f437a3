"""How much is computed at once, and what happens where memory runs out."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

import torch

from peelaudit.errors import OutOfMemory, is_out_of_memory

__all__ = ["BATCH_TOKENS", "LEAST_LOGITS", "LOGIT_BYTES", "Memory", "batches"]

BATCH_TOKENS = 4096
"""Tokens that go through a block at once."""
LOGIT_WORDS = 4096
"""Words whose logits are made at once. Of 262,144 of width 640 losses take half of the time that they take with all at
once, and gradients two thirds: these stay in the cache.
"""
LOGIT_BYTES = 8 << 20
"""About as much memory as logits that are made at once may take."""
LOGIT_SCALE = 16
"""On a device, whose products want to be larger: as many times as many words, and bytes."""
LEAST_LOGITS = 16
"""Tokens whose logits are made at once at the least."""
T = TypeVar("T")


class Memory:
    """What one network's blocks and its head may take: all share it, and where memory runs out it shrinks for all.

    Attributes:
        tokens: that go through a block at once, or those of one sequence.
        logit_bytes: of logits that are made at once, or those of a few tokens.
        state_bytes: of states in main memory; None for half of what is free there.
        logit_words: of which logits are made at once at most.
        block_bytes: of blocks that are kept in main memory at most; None for what is always kept there.
        stage: what is computed, for messages.
        notes: what is to be told of memory that ran out.

    Args:
        positions: of a sequence.
        vocabulary: the head's.
        device: that computes.
    """

    def __init__(self, positions: int = 1, vocabulary: int = 1, device: torch.device | None = None) -> None:
        scale = 1 if device is None or device.type == "cpu" else LOGIT_SCALE
        self.tokens, self.logit_bytes = BATCH_TOKENS, LOGIT_BYTES * scale
        self.logit_words = LOGIT_WORDS * scale
        self.state_bytes: int | None = None
        self.block_bytes: int | None = None
        self.stage = "the network"
        self.notes: tuple[str, ...] = ()
        self._least = positions, 4 * min(vocabulary, self.logit_words) * LEAST_LOGITS

    def logit_tokens(self, words: int) -> int:
        """Of how many tokens logits of so many words are made at once."""
        return max(1, self.logit_bytes // (4 * words))

    def reclaim(self) -> None:
        """Give back to the system what was freed: its allocator keeps that in pieces between what is still there, which
        came to 1.2 of SmolLM2's 2.0 GiB.
        """
        if (trim := _malloc_trim()) is not None:
            trim(0)

    def retried(self, compute: Callable[[], T]) -> T:
        """What `compute` returns. Where memory runs out it begins anew, on half as much at once: what it changes
        itself must be gone by then.

        Raises:
            OutOfMemory: one sequence at a time is too much.
        """
        while True:
            try:
                return compute()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(error)
            gc.collect()  # out of the handler, whose frames hold tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _shrink(self, error: Exception) -> None:
        tokens, logit_bytes = self._least
        if self.tokens <= tokens and self.logit_bytes <= logit_bytes:
            problem = f"{self.stage}: not enough memory for one sequence at a time"
            raise OutOfMemory(f"{problem}; a shorter --seq-len or fewer --tokens need less") from error
        self.tokens, self.logit_bytes = max(tokens, self.tokens // 2), max(logit_bytes, self.logit_bytes // 2)
        self.notes += (f"{self.stage}: memory ran out, and it was begun anew with {self.tokens:,} tokens at once",)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Glibc's function of that name; None where there is another library."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found


def batches(rows: slice, positions: int, tokens: int) -> Iterator[slice]:
    """Cut a range of sequences into ranges of about `tokens` tokens."""
    size = max(1, tokens // positions)
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))
