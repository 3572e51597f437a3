"""Readouts: their losses, of the sequences that are asked for, and their derivatives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peelaudit.errors import NonFiniteResult
from peelaudit.method.readouts.factory import ReadoutFactory
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.network.states import NO_TARGET, StateStore
from tests.losses import token_losses


def test_what_is_fed_only_is_in_no_loss(peeled: tuple) -> None:
    """The loss of a sequence is that of its other tokens, whichever token stands there for the loss."""
    decoder, data, states = peeled
    fed_only = torch.zeros_like(data.tokens, dtype=torch.bool)
    fed_only[:, 7] = fed_only[3, 9] = True
    masked = replace(data, fed_only=fed_only)
    assert masked.predictions(slice(2, 5)).tolist() == [30, 29, 30]
    assert data.predictions(slice(2, 5)).tolist() == [31, 31, 31]
    own = ReadoutFactory(decoder, masked, states[-1], StateStore()).own
    found = own.losses(states[-1], masked.targets(slice(None)), torch.arange(2, 5), "a test")
    each = token_losses(own.unembedding.logits(states[-1][2:5, :-1]), data.tokens[2:5, 1:]).double()
    expected = each.masked_fill(fed_only[2:5, 1:], 0).sum(dim=1)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-6)


def test_token_losses_are_cross_entropies() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 5, 17) * 4, torch.randint(0, 17, (3, 5))
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(3, 5)
    torch.testing.assert_close(token_losses(logits, targets), expected)


def test_losses_are_of_the_sequences_asked_for_in_their_order(peeled: tuple) -> None:
    decoder, data, states = peeled
    own = ReadoutFactory(decoder, data, states[-1], StateStore()).own
    everything = own.losses(states[-1], data.tokens, torch.arange(44), "a test")
    some = own.losses(states[-1], data.tokens, torch.tensor([40, 3]), "a test")
    np.testing.assert_allclose(some, everything[[40, 3]], rtol=1e-5)


def test_the_losses_of_predictions_add_up_to_the_sequences(peeled: tuple) -> None:
    decoder, data, states = peeled
    own, index = ReadoutFactory(decoder, data, states[-1], StateStore()).own, torch.tensor([40, 3])
    targets = data.tokens.clone()
    targets[3, 5] = NO_TARGET
    each = own.each(states[-1], targets, index, "a test")
    expected = token_losses(own.unembedding.logits(states[-1][index, :-1]), data.tokens[index, 1:]).double()
    expected[1, 4] = 0
    torch.testing.assert_close(each, expected.detach(), rtol=1e-6, atol=0)
    np.testing.assert_array_equal(own.losses(states[-1], targets, index, "a test"), each.sum(dim=1).numpy())


def test_batches_do_not_change_losses(peeled: tuple) -> None:
    decoder, data, states = peeled
    own = ReadoutFactory(decoder, data, states[-1], StateStore()).own
    whole = own.losses(states[-1], data.tokens, torch.arange(44), "a test")
    decoder.memory.logit_bytes = 1
    np.testing.assert_allclose(own.losses(states[-1], data.tokens, torch.arange(44), "a test"), whole, rtol=1e-5)


def test_a_state_that_is_not_finite_is_named(peeled: tuple) -> None:
    decoder, data, states = peeled
    bad = states[-1].clone()
    bad[40, 3, 0] = float("inf")
    own = ReadoutFactory(decoder, data, states[-1], StateStore()).own
    with pytest.raises(NonFiniteResult, match="reference x"):
        own.losses(bad, data.tokens, torch.arange(44), "reference x")


def test_a_soft_cap_bounds_the_logits(peeled: tuple) -> None:
    decoder, data, states = peeled
    unembedding = ReadoutFactory(decoder, data, states[-1], StateStore()).own.unembedding
    capped = replace(unembedding, softcap=2.0).logits(states[-1])
    assert float(capped.abs().max()) <= 2.0
    torch.testing.assert_close(capped, 2.0 * torch.tanh(unembedding.logits(states[-1]) / 2.0))


def test_a_scaled_head_has_scaled_logits(peeled: tuple) -> None:
    decoder, data, states = peeled
    own = ReadoutFactory(decoder, data, states[-1], StateStore()).own.unembedding
    biased = replace(own, bias=torch.ones(len(own.weight)))
    for one in (own, biased):
        torch.testing.assert_close(one.scaled(2.5).logits(states[-1]), 2.5 * one.logits(states[-1]))


@pytest.mark.parametrize("kind", ["own", "lens"])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("left_out", [(), ((0, 0), (1, 2))])
def test_a_curvature_product_is_the_change_of_the_gradient_of_expected_losses(
    kind: str, softcap: float | None, left_out: tuple[tuple[int, int], ...]
) -> None:
    """J'(diag p - pp')J v from the whole Jacobian, and the losses' slopes from differences; where the next token isn't
    to be predicted, nothing.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    norm = torch.nn.RMSNorm(6, dtype=torch.float64)
    readout = Readout(
        "own",
        Unembedding(norm, draw(9, 6), draw(9), softcap),
        None if kind == "own" else (0.3 * draw(6, 6), draw(6)),
    )
    state, tangent, tokens = draw(2, 4, 6), draw(2, 4, 6), torch.randint(0, 9, (2, 4), generator=generator)
    for sequence, position in left_out:
        tokens[sequence, position + 1] = NO_TARGET

    def logits(hidden: Tensor) -> Tensor:
        moved = hidden if readout.map is None else hidden + hidden @ readout.map[0] + readout.map[1]
        return readout.unembedding.logits(moved)

    product = readout.curvature(state, tangent, tokens)
    slopes, bends = readout.along(state, tangent, tokens)
    expected = torch.zeros_like(state)
    for sequence in range(2):
        for position in range(3):
            if (sequence, position) in left_out:
                continue
            jacobian = torch.autograd.functional.jacobian(logits, state[sequence, position])
            p = jacobian.new_tensor(logits(state[sequence, position]).softmax(dim=-1).tolist())
            inner = torch.diag(p) - torch.outer(p, p)
            expected[sequence, position] = jacobian.T @ inner @ jacobian @ tangent[sequence, position]
    torch.testing.assert_close(product, expected)
    step, every = 1e-6, torch.arange(2)
    up, low = (readout.losses(state + e * tangent, tokens, every, "a test") for e in (step, -step))
    np.testing.assert_allclose(slopes, (up - low) / (2 * step), rtol=1e-6)
    gradient = readout.gradient(state, tokens)
    np.testing.assert_allclose(slopes, (gradient * tangent).sum(dim=(1, 2)).numpy(), rtol=1e-9)
    np.testing.assert_allclose(bends, (product * tangent).sum(dim=(1, 2)).numpy(), rtol=1e-9)


def test_logits_are_made_of_as_few_tokens_as_memory_allows(peeled: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, data, states = peeled
    own = ReadoutFactory(decoder, data, states[-1], StateStore()).own
    state, tangent, targets = states[-1][:3], states[-1][3:6], data.targets(slice(0, 3))

    def found() -> list[Any]:
        return [
            own.gradient(state, targets),
            own.curvature(state, tangent, targets),
            *own.along(state, tangent, targets),
        ]

    whole, made, scores = found(), [], Unembedding.scores
    monkeypatch.setattr(Unembedding, "scores", lambda *given: (made.append(given[1].shape), scores(*given))[1])
    decoder.memory.logit_bytes = 4 * len(own.unembedding.weight) * 5
    for one, other in zip(found(), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert {len(shape) for shape in made} == {2}
    assert max(tokens for tokens, _ in made) == 5


def test_curvature_leaves_what_it_is_given(peeled: tuple) -> None:
    decoder, data, states = peeled
    own = ReadoutFactory(decoder, data, states[-1], StateStore()).own
    state, tangent = states[-1][:2].clone(), torch.ones_like(states[-1][:2])
    own.curvature(state, tangent, data.tokens[:2])
    assert torch.equal(state, states[-1][:2])
    assert torch.equal(tangent, torch.ones_like(tangent))
    assert not state.requires_grad
