"""Readouts: the own head is transformers', a lens undoes what is linear, a refitted head never loses on select."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import NonFiniteResult
from peelaudit.method.readout import ReadoutFactory, token_losses
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import Rows, StateStore, TokenRows, trained_states
from tests.places import FIXTURES

ROWS = Rows(slice(0, 24), slice(24, 32), slice(32, 44))


@pytest.fixture(scope="module")
def peeled() -> tuple[Decoder, TokenRows, tuple[Tensor, ...]]:
    """The Llama fixture over 44 sequences that it writes itself: text that it knows."""
    with open_checkpoint(FIXTURES / "llama") as checkpoint:
        decoder = Decoder(checkpoint, seq_len=32, device=torch.device("cpu"), dtype=torch.float32)
        torch.manual_seed(0)
        tokens = torch.randint(0, decoder.vocabulary, (44, 32))
        data = TokenRows(tokens, ROWS)
        return decoder, data, trained_states(decoder, tokens, StateStore())


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
