"""Readouts as they are fitted: a lens undoes what is linear, a refitted head never loses on select."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from peelaudit.method.readouts import head as module
from peelaudit.method.readouts.factory import ReadoutFactory
from peelaudit.method.readouts.temperature import wanted
from peelaudit.network.states import StateStore, TokenRows


def select_loss(factory: ReadoutFactory, kind: str, state: Tensor, data: TokenRows) -> float:
    readout = factory.fit(kind, state, "a test")  # type: ignore[arg-type]
    return float(readout.losses(state, data.tokens, torch.arange(24, 32), "a test").sum())


def test_a_lens_undoes_an_affine_change_of_the_last_state(peeled: tuple) -> None:
    decoder, data, states = peeled
    torch.manual_seed(0)
    width = decoder.width
    change = torch.eye(width) + 0.3 * torch.randn(width, width) / width**0.5
    moved = states[-1] @ change + 2.0
    factory = ReadoutFactory(decoder, data, states[-1], StateStore())
    index = torch.arange(32, 44)
    own = factory.own.losses(states[-1], data.tokens, index, "a test")
    lens = factory.fit("lens", moved, "a test").losses(moved, data.tokens, index, "a test")
    np.testing.assert_allclose(lens, own, rtol=1e-3)
    assert abs(factory.own.losses(moved, data.tokens, index, "a test").sum() / own.sum() - 1) > 0.1


def test_the_lens_of_the_last_state_is_the_own_readout(peeled: tuple) -> None:
    decoder, data, states = peeled
    assert ReadoutFactory(decoder, data, states[-1], StateStore()).fit("lens", states[-1], "a test").map is None


def test_a_refitted_head_never_loses_on_select_and_learns_what_there_is_to_learn(peeled: tuple) -> None:
    decoder, data, states = peeled
    narrow = TokenRows(data.tokens % 7, data.rows)  # the own head doesn't know that seven tokens are all there are
    factory = ReadoutFactory(decoder, narrow, states[-1], StateStore())
    own, refit = (select_loss(factory, kind, states[-1], narrow) for kind in ("own", "refit"))
    assert refit < 0.8 * own


def test_refitting_twice_gives_the_same_head(peeled: tuple) -> None:
    decoder, data, states = peeled
    narrow = TokenRows(data.tokens % 7, data.rows)
    factories = [ReadoutFactory(decoder, narrow, states[-1], StateStore()) for _ in range(2)]
    first, second = (factory.fit("refit", states[-1], "a test").unembedding.weight for factory in factories)
    assert torch.equal(first, second)
    assert not torch.equal(first, factories[0].own.unembedding.weight)


def test_the_head_of_another_state_begins_no_worse_than_the_tempered_own_or_that_of_the_last_state(
    peeled: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, data, states = peeled
    factory = ReadoutFactory(decoder, data, states[-1], StateStore())
    last = factory.fit("refit", states[-1], "a test")
    monkeypatch.setattr(
        "peelaudit.method.readouts.factory.refitted", lambda *_, **__: (None, None)
    )  # so that heads stay there
    index = torch.arange(24, 32)
    for state in (states[0], states[1], states[-1].flip(-1)):
        exponent = wanted(factory.own, state, data.tokens, index, "a test").exponent
        tempered = replace(factory.own, unembedding=factory.own.unembedding.scaled(math.exp(-exponent)))
        starts = (factory.own, tempered, last)
        least = min(float(one.losses(state, data.tokens, index, "a test").sum()) for one in starts)
        assert select_loss(factory, "refit", state, data) == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("few_words", [4096, 0])
def test_the_own_losses_are_taken_on_the_way_where_all_words_are_summed_over_anyway(
    few_words: int, peeled: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, data, states = peeled
    monkeypatch.setattr(module, "FEW_WORDS", few_words)
    narrow = TokenRows(data.tokens % 7, data.rows)
    factory = ReadoutFactory(decoder, narrow, states[-1], StateStore())
    factory.fit("refit", states[-1], "a test")
    before = decoder.work.head
    found = factory.final_losses("a test").own
    rows = narrow.rows.held_out if few_words == 0 else slice(0, len(states[-1]))
    assert decoder.work.head - before == int(narrow.predictions(rows).sum())
    expected = factory.own.losses(states[-1], narrow.tokens, torch.arange(len(states[-1])), "a test")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_refitting_leaves_the_own_head_as_it_is(peeled: tuple) -> None:
    decoder, data, states = peeled
    before = decoder.head.weight.clone()
    ReadoutFactory(decoder, TokenRows(data.tokens % 7, data.rows), states[-1], StateStore()).fit(
        "refit", states[-1], "x"
    )
    assert torch.equal(decoder.head.weight, before)
