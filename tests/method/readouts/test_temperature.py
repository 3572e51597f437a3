"""The temperature that logits want: it undoes what scaled them, and is chosen on select."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from peelaudit.errors import NonFiniteResult
from peelaudit.method.readouts.factory import ReadoutFactory
from peelaudit.method.readouts.temperature import wanted
from peelaudit.network.states import StateStore, TokenRows
from tests.method.readouts.support import ROWS


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7, 3.0])
def test_logits_that_were_scaled_want_the_temperature_that_undoes_it(factor: float, drawn: tuple) -> None:
    """Tokens drawn from the network's own probabilities want 1."""
    decoder, data, states = drawn
    plain = ReadoutFactory(decoder, data, states[-1], StateStore())
    factory = ReadoutFactory(decoder, data, states[-1], StateStore())
    factory.own = replace(plain.own, unembedding=plain.own.unembedding.scaled(factor))
    once, found = plain.final_losses("a test").temperature, factory.final_losses("a test")
    assert once == pytest.approx(1, rel=0.1)
    assert found.temperature == pytest.approx(factor * once, rel=0.02)
    index = torch.arange(ROWS.held_out.start, ROWS.held_out.stop)
    own, cooled = factory.own, factory.own.unembedding.scaled(1 / found.temperature)
    for head, losses in ((own, found.own[index]), (replace(own, unembedding=cooled), found.tempered)):
        np.testing.assert_allclose(losses, head.losses(states[-1], data.tokens, index, "a test"), rtol=1e-5)


def test_a_temperature_is_chosen_on_select(peeled: tuple) -> None:
    decoder, data, states = peeled
    changed = data.tokens.clone()
    changed[:24], changed[32:] = 0, 0
    found = [
        ReadoutFactory(decoder, TokenRows(tokens, ROWS), states[-1], StateStore()).final_losses("a test").temperature
        for tokens in (data.tokens, changed)
    ]
    assert found[0] == found[1] > 1  # random tokens want flat logits


def test_it_is_the_least_of_many(drawn: tuple) -> None:
    """Of a fine grid no temperature has a loss lower by a thousandth of what the best gains over four times it."""
    decoder, data, states = drawn
    own = ReadoutFactory(decoder, data, states[-1], StateStore()).own
    state, targets, index = states[-1], data.targets(slice(None)), torch.arange(24, 32)

    def loss(exponent: float) -> float:
        head = replace(own, unembedding=own.unembedding.scaled(2.2 * float(np.exp(-exponent))))
        return float(head.losses(state, targets, index, "a test").sum())

    scaled = replace(own, unembedding=own.unembedding.scaled(2.2))
    exponent, plain = wanted(scaled, state, targets, index, "a test")
    assert plain == pytest.approx(loss(0.0), rel=1e-6)
    found = loss(exponent)
    grid = [loss(exponent) for exponent in np.linspace(-np.log(4), np.log(4), 81)]
    assert found - min(grid) < 1e-3 * (grid[0] - min(grid))


def test_a_loss_that_is_not_finite_is_named(peeled: tuple) -> None:
    decoder, data, states = peeled
    own, bad = ReadoutFactory(decoder, data, states[-1], StateStore()).own, states[-1].clone()
    bad[3, 3, 0] = float("nan")
    with pytest.raises(NonFiniteResult, match="reference x"):
        wanted(own, bad, data.tokens, torch.arange(len(bad)), "reference x")
