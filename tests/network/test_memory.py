"""What is computed at once, and what happens where memory runs out."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peelaudit.auditing.memory import own_memory
from peelaudit.errors import OutOfMemory
from peelaudit.network.memory import BATCH_TOKENS, LEAST_LOGITS, LOGIT_BYTES, Memory, batches

CPU_ALLOCATION = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried …"


@given(st.integers(0, 30), st.integers(0, 200), st.integers(1, 50), st.integers(1, 500))
def test_batches_cover_the_rows_once_in_order(start: int, length: int, positions: int, tokens: int) -> None:
    parts = list(batches(slice(start, start + length), positions, tokens))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(start, start + length))
    assert all(part.stop - part.start == 1 or (part.stop - part.start) * positions <= tokens for part in parts)


def failing(memory: Memory, most: int, error: Exception) -> Callable[[], list[int]]:
    """What can do with so many tokens at once, and no more."""

    def compute() -> list[int]:
        done = []
        for part in batches(slice(0, 64), 128, memory.tokens):
            if (part.stop - part.start) * 128 > most:
                raise error
            done.append(part.stop - part.start)
        return done

    return compute


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(CPU_ALLOCATION),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_what_runs_out_of_memory_is_begun_anew_with_half_as_much_at_once(error: Exception) -> None:
    memory = Memory(positions=128, vocabulary=1000)
    memory.stage = "peel map"
    assert memory.retried(failing(memory, 1500, error)) == [8] * 8
    assert (memory.tokens, memory.logit_bytes) == (BATCH_TOKENS // 4, LOGIT_BYTES // 4)
    assert memory.notes == (
        "peel map: memory ran out, and it was begun anew with 2,048 tokens at once",
        "peel map: memory ran out, and it was begun anew with 1,024 tokens at once",
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_was_freed_is_given_back() -> None:
    memory, pieces = Memory(), [torch.zeros(1 << 14) for _ in range(3000)]
    kept = pieces[::100]  # so that what is freed lies between what isn't
    pieces.clear()
    before = own_memory()
    memory.reclaim()
    assert own_memory() < before - (100 << 20)
    assert len(kept) == 30


def test_one_sequence_that_is_too_much_is_an_error_that_names_the_stage() -> None:
    memory = Memory(positions=128, vocabulary=1000)
    memory.stage = "peel map"
    with pytest.raises(OutOfMemory, match=r"^peel map: not enough memory for one sequence at a time"):
        memory.retried(failing(memory, 100, torch.OutOfMemoryError("CUDA out of memory.")))
    assert (memory.tokens, memory.logit_bytes) == (128, 4 * 1000 * LEAST_LOGITS)


def test_other_errors_pass() -> None:
    memory = Memory()
    with pytest.raises(RuntimeError, match="sizes"):
        memory.retried(failing(memory, 0, RuntimeError("sizes don't match")))
    assert memory.notes == ()
