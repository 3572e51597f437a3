"""Readouts: the own head is transformers', a lens undoes what is linear, a refitted head never loses on select."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import NonFiniteResult
from peelaudit.method.readout import Readout, ReadoutFactory, Unembedding, token_losses
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import NO_TARGET, Rows, StateStore, TokenRows, trained_states
from tests.places import FIXTURES

ROWS = Rows(slice(0, 24), slice(24, 32), slice(32, 44))


@pytest.fixture(scope="module")
def peeled() -> Iterator[tuple[Decoder, TokenRows, tuple[Tensor, ...]]]:
    """The Llama fixture over 44 sequences of random tokens."""
    with open_checkpoint(FIXTURES / "llama") as checkpoint:
        decoder = Decoder(checkpoint, seq_len=32, device=torch.device("cpu"), dtype=torch.float32)
        torch.manual_seed(0)
        tokens = torch.randint(0, decoder.vocabulary, (44, 32))
        data = TokenRows(tokens, ROWS)
        yield decoder, data, trained_states(decoder, tokens, StateStore())


@pytest.fixture(scope="module")
def drawn(peeled: tuple) -> tuple[Decoder, TokenRows, tuple[Tensor, ...]]:
    """The same over text that the fixture writes token by token, from its own probabilities."""
    decoder, data, _ = peeled
    tokens, generator = data.tokens.clone(), torch.Generator().manual_seed(0)
    for position in range(1, tokens.shape[1]):
        final = trained_states(decoder, tokens, StateStore())[-1][:, position - 1]
        chances = Unembedding.of(decoder).logits(final).softmax(dim=-1)
        tokens[:, position] = torch.multinomial(chances, 1, generator=generator)[:, 0]
    return decoder, TokenRows(tokens, ROWS), trained_states(decoder, tokens, StateStore())


def test_what_is_fed_only_is_in_no_loss(peeled: tuple) -> None:
    """The loss of a sequence is that of its other tokens, whichever token stands there for the loss."""
    decoder, data, states = peeled
    fed_only = torch.zeros_like(data.tokens, dtype=torch.bool)
    fed_only[:, 7] = fed_only[3, 9] = True
    masked = replace(data, fed_only=fed_only)
    assert masked.predictions(slice(2, 5)).tolist() == [30, 29, 30]
    assert data.predictions(slice(2, 5)).tolist() == [31, 31, 31]
    own = ReadoutFactory(decoder, masked, states[-1], seed=0).own
    found = own.losses(states[-1], masked.targets(slice(None)), torch.arange(2, 5), "a test")
    each = token_losses(own.unembedding.logits(states[-1][2:5, :-1]), data.tokens[2:5, 1:]).double()
    expected = each.masked_fill(fed_only[2:5, 1:], 0).sum(dim=1)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-6)


def select_loss(factory: ReadoutFactory, kind: str, state: Tensor, data: TokenRows) -> float:
    readout = factory.fit(kind, state, "a test")  # type: ignore[arg-type]
    return float(readout.losses(state, data.tokens, torch.arange(24, 32), "a test").sum())


def test_token_losses_are_cross_entropies() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 5, 17) * 4, torch.randint(0, 17, (3, 5))
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(3, 5)
    torch.testing.assert_close(token_losses(logits, targets), expected)


def test_losses_are_of_the_sequences_asked_for_in_their_order(peeled: tuple) -> None:
    decoder, data, states = peeled
    own = ReadoutFactory(decoder, data, states[-1], seed=0).own
    everything = own.losses(states[-1], data.tokens, torch.arange(44), "a test")
    some = own.losses(states[-1], data.tokens, torch.tensor([40, 3]), "a test")
    np.testing.assert_allclose(some, everything[[40, 3]], rtol=1e-5)


def test_the_losses_of_predictions_add_up_to_the_sequences(peeled: tuple) -> None:
    decoder, data, states = peeled
    own, index = ReadoutFactory(decoder, data, states[-1], seed=0).own, torch.tensor([40, 3])
    targets = data.tokens.clone()
    targets[3, 5] = NO_TARGET
    each = own.each(states[-1], targets, index, "a test")
    expected = token_losses(own.unembedding.logits(states[-1][index, :-1]), data.tokens[index, 1:]).double()
    expected[1, 4] = 0
    torch.testing.assert_close(each, expected.detach(), rtol=1e-6, atol=0)
    np.testing.assert_array_equal(own.losses(states[-1], targets, index, "a test"), each.sum(dim=1).numpy())


def test_batches_do_not_change_losses(peeled: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, data, states = peeled
    own = ReadoutFactory(decoder, data, states[-1], seed=0).own
    whole = own.losses(states[-1], data.tokens, torch.arange(44), "a test")
    monkeypatch.setattr("peelaudit.method.readout.LOGIT_BYTES", 1)
    np.testing.assert_allclose(own.losses(states[-1], data.tokens, torch.arange(44), "a test"), whole, rtol=1e-5)


def test_a_lens_undoes_an_affine_change_of_the_last_state(peeled: tuple) -> None:
    decoder, data, states = peeled
    torch.manual_seed(0)
    width = decoder.width
    change = torch.eye(width) + 0.3 * torch.randn(width, width) / width**0.5
    moved = states[-1] @ change + 2.0
    factory = ReadoutFactory(decoder, data, states[-1], seed=0)
    index = torch.arange(32, 44)
    own = factory.own.losses(states[-1], data.tokens, index, "a test")
    lens = factory.fit("lens", moved, "a test").losses(moved, data.tokens, index, "a test")
    np.testing.assert_allclose(lens, own, rtol=1e-3)
    assert abs(factory.own.losses(moved, data.tokens, index, "a test").sum() / own.sum() - 1) > 0.1


def test_the_lens_of_the_last_state_is_the_own_readout(peeled: tuple) -> None:
    decoder, data, states = peeled
    assert ReadoutFactory(decoder, data, states[-1], seed=0).fit("lens", states[-1], "a test").map is None


def test_a_refitted_head_never_loses_on_select_and_learns_what_there_is_to_learn(peeled: tuple) -> None:
    decoder, data, states = peeled
    narrow = TokenRows(data.tokens % 7, data.rows)  # the own head doesn't know that seven tokens are all there are
    factory = ReadoutFactory(decoder, narrow, states[-1], seed=0)
    own, refit = (select_loss(factory, kind, states[-1], narrow) for kind in ("own", "refit"))
    assert refit < 0.8 * own


def test_refitting_twice_gives_the_same_head(peeled: tuple) -> None:
    decoder, data, states = peeled
    factory = ReadoutFactory(decoder, TokenRows(data.tokens % 7, data.rows), states[-1], seed=3)
    first, second = (factory.fit("refit", states[-1], "a test").unembedding.weight for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, factory.own.unembedding.weight)


def test_refitting_leaves_the_own_head_as_it_is(peeled: tuple) -> None:
    decoder, data, states = peeled
    before = decoder.head.weight.clone()
    ReadoutFactory(decoder, TokenRows(data.tokens % 7, data.rows), states[-1], seed=0).fit("refit", states[-1], "x")
    assert torch.equal(decoder.head.weight, before)


def test_a_state_that_is_not_finite_is_named(peeled: tuple) -> None:
    decoder, data, states = peeled
    bad = states[-1].clone()
    bad[40, 3, 0] = float("inf")
    own = ReadoutFactory(decoder, data, states[-1], seed=0).own
    with pytest.raises(NonFiniteResult, match="reference x"):
        own.losses(bad, data.tokens, torch.arange(44), "reference x")


def test_a_soft_cap_bounds_the_logits(peeled: tuple) -> None:
    decoder, data, states = peeled
    unembedding = ReadoutFactory(decoder, data, states[-1], seed=0).own.unembedding
    capped = replace(unembedding, softcap=2.0).logits(states[-1])
    assert float(capped.abs().max()) <= 2.0
    torch.testing.assert_close(capped, 2.0 * torch.tanh(unembedding.logits(states[-1]) / 2.0))


def test_a_scaled_head_has_scaled_logits(peeled: tuple) -> None:
    decoder, data, states = peeled
    own = ReadoutFactory(decoder, data, states[-1], seed=0).own.unembedding
    biased = replace(own, bias=torch.ones(len(own.weight)))
    for one in (own, biased):
        torch.testing.assert_close(one.scaled(2.5).logits(states[-1]), 2.5 * one.logits(states[-1]))


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7, 3.0])
def test_logits_that_were_scaled_want_the_temperature_that_undoes_it(factor: float, drawn: tuple) -> None:
    """Tokens drawn from the network's own probabilities want 1."""
    decoder, data, states = drawn
    plain = ReadoutFactory(decoder, data, states[-1], seed=0)
    factory = ReadoutFactory(decoder, data, states[-1], seed=0)
    factory.own = replace(plain.own, unembedding=plain.own.unembedding.scaled(factor))
    once, _ = plain.tempered(states[-1], "a test")
    temperature, head = factory.tempered(states[-1], "a test")
    assert once == pytest.approx(1, rel=0.1)
    assert temperature == pytest.approx(factor * once, rel=0.02)
    expected = factory.own.unembedding.logits(states[-1]) / temperature
    torch.testing.assert_close(head.unembedding.logits(states[-1]), expected, rtol=1e-4, atol=1e-4)


def test_a_temperature_is_chosen_on_select(peeled: tuple) -> None:
    decoder, data, states = peeled
    changed = data.tokens.clone()
    changed[:24], changed[32:] = 0, 0
    found = [
        ReadoutFactory(decoder, TokenRows(tokens, ROWS), states[-1], seed=0).tempered(states[-1], "a test")[0]
        for tokens in (data.tokens, changed)
    ]
    assert found[0] == found[1] > 1  # random tokens want flat logits


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


def test_curvature_leaves_what_it_is_given(peeled: tuple) -> None:
    decoder, data, states = peeled
    own = ReadoutFactory(decoder, data, states[-1], seed=0).own
    state, tangent = states[-1][:2].clone(), torch.ones_like(states[-1][:2])
    own.curvature(state, tangent, data.tokens[:2])
    assert torch.equal(state, states[-1][:2])
    assert torch.equal(tangent, torch.ones_like(tangent))
    assert not state.requires_grad
