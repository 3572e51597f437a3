"""Cross-entropies and their derivatives of some words at a time, beside torch's own of all words at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from peelaudit.method.readouts.cross_entropy import Exponentials, cross_entropies, gradients, products, spreads
from peelaudit.network.unembedding import Unembedding

WORDS, WIDTH, TOKENS, FLOAT64 = 11, 5, 7, torch.float64


def head(
    at_once: int, *, softcap: float | None = None, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Unembedding:
    """A random one whose logits are made of so many words at a time."""
    drawn = torch.Generator().manual_seed(seed)
    weight = torch.randn(WORDS, WIDTH, generator=drawn, dtype=FLOAT64)
    bias = torch.randn(WORDS, generator=drawn, dtype=FLOAT64)
    made = Unembedding(torch.nn.Identity(), weight.to(dtype), bias.to(dtype), softcap, 1.3)
    made.memory.logit_words = at_once
    return made


def inputs(scale: float = 1.0, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """What the map is given, how that changes, and the expected words."""
    drawn = torch.Generator().manual_seed(seed)
    normed, turn = (torch.randn(TOKENS, WIDTH, generator=drawn, dtype=FLOAT64) for _ in range(2))
    return scale * normed, turn, torch.randint(WORDS, (TOKENS,), generator=drawn)


def summed(made: Unembedding, targets: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda normed: F.cross_entropy(made.finished(made.scores(normed)), targets, reduction="sum")


@pytest.mark.parametrize("softcap", [None, 4.0])
@settings(deadline=None, max_examples=40)
@given(st.integers(1, WORDS + 1), st.floats(0.01, 30), st.integers(0, 20))
def test_words_at_a_time_make_what_all_words_make(softcap: float | None, at_once: int, scale: float, seed: int) -> None:
    made, (normed, turn, targets) = head(at_once, softcap=softcap, seed=seed), inputs(scale, seed)
    loss = summed(made, targets)
    scores = made.scores(normed)
    for factor, found in zip((1.0, 0.4), cross_entropies(made, normed, targets, (1.0, 0.4)), strict=True):
        expected = F.cross_entropy(made.finished(factor * scores), targets, reduction="none")
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    gradient = torch.autograd.functional.jacobian(loss, normed)
    torch.testing.assert_close(gradients(made, normed, targets), gradient, rtol=1e-9, atol=1e-12)

    def logits(one: Tensor) -> Tensor:
        return made.finished(made.scores(one))

    expected = torch.zeros_like(normed)
    for row in range(TOKENS):
        jacobian = torch.autograd.functional.jacobian(logits, normed[row])
        p = logits(normed[row]).softmax(dim=0)
        expected[row] = jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian @ turn[row]
    found = products(made, normed, turn, targets)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
    slope, bend = spreads(made, normed, turn, targets)
    torch.testing.assert_close(slope, (gradient * turn).sum(dim=1), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(bend, (expected * turn).sum(dim=1), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("at_once", [3, WORDS])
def test_what_a_certain_prediction_lacks_keeps_its_digits(at_once: int) -> None:
    """Of losses down to 1e-12 gradients in float32 are right to four digits, where p - 1 would be 0."""
    exact, (normed, _, _) = head(WORDS), inputs(30.0)
    targets = exact.scores(normed).argmax(dim=1)
    losses = cross_entropies(exact, normed, targets, (1.0,))[0]
    assert losses.min() < 1e-12
    found = gradients(head(at_once, dtype=torch.float32), normed.float(), targets).double()
    expected = gradients(exact, normed, targets)
    off = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert off.max() < 1e-4


def test_words_that_no_logit_allows_have_no_part() -> None:
    made, (normed, _, targets) = head(2), inputs()
    assert made.bias is not None
    made.bias[[0, 1, 6]] = -torch.inf
    targets = torch.full_like(targets, 4)
    expected = F.cross_entropy(made.finished(made.scores(normed)), targets, reduction="none")
    torch.testing.assert_close(cross_entropies(made, normed, targets, (1.0,))[0], expected)
    found = gradients(made, normed, targets)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(summed(made, targets), normed))


@pytest.mark.parametrize("number", [torch.inf, torch.nan])
def test_a_logit_that_is_no_number_is_in_the_loss(number: float) -> None:
    made, (normed, _, targets) = head(4), inputs()
    normed[2, 1] = number
    losses = cross_entropies(made, normed, targets, (1.0,))[0]
    assert not losses[2].isfinite()
    assert losses[[0, 1, 3, 4, 5, 6]].isfinite().all()


def test_where_no_word_is_expected_all_are_summed() -> None:
    logits = torch.tensor([[1.0, 90.0, -3.0, 2.0], [0.0, -torch.inf, 1.0, 5.0]])
    sums = Exponentials.of_all(logits[:, 0])
    for start in range(0, 4, 2):
        sums.add(logits[:, start : start + 2].clone(), slice(start, start + 2))
    torch.testing.assert_close(sums.log, logits.logsumexp(dim=1))


def test_half_precision_heads_are_summed_in_full() -> None:
    made, (normed, turn, targets) = head(3, dtype=torch.bfloat16), inputs()
    whole, half = head(WORDS), normed.bfloat16()
    assert cross_entropies(made, half, targets, (1.0,)).dtype == torch.float32
    loss = cross_entropies(whole, normed, targets, (1.0,)).float()
    torch.testing.assert_close(cross_entropies(made, half, targets, (1.0,)), loss, rtol=0.03, atol=0.05)
    found = products(made, half, turn.bfloat16(), targets)
    torch.testing.assert_close(found, products(whole, normed, turn, targets).float(), rtol=0.1, atol=0.1)
