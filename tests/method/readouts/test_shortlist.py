"""Losses by a shortlist: those in full at the known states, and to first order near them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from peelaudit.method.readouts import shortlist as module
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.readouts.shortlist import Nearby, held_words
from peelaudit.network.states import NO_TARGET, StateStore

WIDTH, WORDS = 6, 40


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def readout(softcap: float | None = None, *, biased: bool = False, scale: float = 1.0, mapped: bool = False) -> Readout:
    norm, bias = torch.nn.RMSNorm(WIDTH, dtype=torch.float64), draw(2, WORDS) if biased else None
    turn = (0.1 * draw(8, WIDTH, WIDTH), 0.1 * draw(9, WIDTH)) if mapped else None
    return Readout("refit", Unembedding(norm, draw(1, WORDS, WIDTH), bias, softcap, scale), turn)


def targets(words: int = 25) -> Tensor:
    """Of some words only, one token not to be predicted."""
    found = torch.randint(0, words, (9, 7), generator=torch.Generator().manual_seed(3))
    found[4, 2] = NO_TARGET
    return found


def in_full(head: Readout, state: Tensor, expected: Tensor) -> np.ndarray:
    return head.losses(state, expected, torch.arange(len(state)), "a test")


def near(head: Readout, state: Tensor, expected: Tensor) -> Nearby:
    return Nearby(head, state, expected, held_words(expected), StateStore(dtype=torch.float64))


@pytest.mark.parametrize("at_once", [4096, 7])
@pytest.mark.parametrize(
    "head",
    [readout(), readout(3.0, biased=True, scale=0.7), readout(mapped=True)],
    ids=["plain", "capped", "mapped"],
)
def test_they_are_those_in_full_to_first_order(head: Readout, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head.unembedding.memory, "logit_words", at_once)
    state, expected, turn = draw(4, 9, 7, WIDTH), targets(), draw(5, 9, 7, WIDTH)
    nearby = near(head, state, expected)
    np.testing.assert_allclose(nearby.losses(state), in_full(head, state, expected), rtol=1e-9)
    errors = [
        np.abs(nearby.losses(state + size * turn) - in_full(head, state + size * turn, expected)).max()
        for size in (0.02, 0.01)
    ]
    assert 0 < errors[1] < 0.3 * errors[0] < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_weights_are_summed_in_float32(dtype: torch.dtype) -> None:
    plain = readout()
    head = replace(
        plain.unembedding, norm=torch.nn.RMSNorm(WIDTH, dtype=dtype), weight=plain.unembedding.weight.to(dtype)
    )
    narrow, expected, state = replace(plain, unembedding=head), targets(), draw(4, 9, 7, WIDTH).to(dtype)
    found = near(narrow, state, expected).losses(state)
    np.testing.assert_allclose(found, in_full(narrow, state, expected), rtol=2e-2 if dtype != torch.float32 else 1e-5)


def test_they_are_those_in_full_everywhere_where_hardly_a_word_is_left_out() -> None:
    """One word's log is linear in what the head's map is given."""
    head, expected = readout(), targets(WORDS)
    nearby = Nearby(
        head, draw(4, 9, 7, WIDTH), expected, torch.arange(WORDS - 1), StateStore(dtype=torch.float64)
    )  # fmt: skip
    expected[expected == WORDS - 1] = 0
    moved = draw(6, 9, 7, WIDTH)
    np.testing.assert_allclose(nearby.losses(moved), in_full(head, moved, expected), rtol=1e-9)


def test_only_a_part_of_the_head_is_counted() -> None:
    head, state, expected = readout(), draw(4, 9, 7, WIDTH), targets()
    nearby, work = near(head, state, expected), head.unembedding.work
    before = work.head
    nearby.losses(state)
    predicted = int((expected[:, 1:] != NO_TARGET).sum())
    assert work.head - before == pytest.approx(predicted * len(held_words(expected)) / WORDS, abs=1e-5)


def test_a_shortlist_is_for_a_large_vocabulary_of_which_a_text_holds_little(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Nearby.saves(readout(), torch.arange(2))
    monkeypatch.setattr(module, "FEW_WORDS", WORDS - 1)
    assert Nearby.saves(readout(), torch.arange(WORDS // 4))
    assert not Nearby.saves(readout(), torch.arange(WORDS // 4 + 1))
