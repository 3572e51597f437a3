"""Networks made of two: what they compute is what a network with those parts computes, and costs what was said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from peelaudit.errors import NonFiniteResult
from peelaudit.method.diagnosis.swaps import BASE, Swaps
from peelaudit.network.counterparts import Counterparts
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import NO_TARGET, Rows, StateStore, TokenRows
from tests.checkpoints import models
from tests.networks import Network

LAYERS = 3
EVERY = frozenset(range(LAYERS + 3))
ALL = np.arange(8)
Make = Callable[..., Network]


def two(network: Make, family: str = "llama") -> tuple[Network, Network]:
    """Two networks of a family, all of whose parts differ."""
    changes = {"n_layer" if family == "gpt2" else "num_hidden_layers": LAYERS}
    made = []
    for scale in (1.0, 1.3):
        model = models.model(family, **changes)
        with torch.no_grad():
            for index, parameter in enumerate(model.parameters()):
                parameter.mul_(1 + (scale - 1) * (-1) ** index)
        made.append(network(model))
    return made[0], made[1]


def data(network: Network, fed_only: torch.Tensor | None = None) -> TokenRows:
    rows = Rows(slice(0, 0), slice(0, 0), slice(0, 8))
    return TokenRows(network.tokens[:8], rows, fed_only)


def swaps(base: Network, new: Network, differing: frozenset[int] = EVERY, tokens: TokenRows | None = None) -> Swaps:
    pair = Counterparts(base.decoder, new.decoder, differing)
    return Swaps(pair, tokens or data(base), StateStore(dtype=torch.float64))


def logits(base: Decoder, new: Decoder, mix: frozenset[int], tokens: torch.Tensor) -> torch.Tensor:
    """By calling one part after another."""
    chosen = [new if place in mix else base for place in range(LAYERS + 3)]
    with torch.no_grad():
        state = chosen[0].embed(tokens)
        for layer in range(1, LAYERS + 1):
            state = chosen[layer].block(layer)(state)
        head = chosen[-1].head
        return F.linear(chosen[-2].norm(state), head.weight, head.bias).log_softmax(dim=-1)


MIXES = [frozenset(mix) for mix in ({2}, {1, 3}, {0}, {0, 1}, EVERY - {2}, EVERY - {0}, {4}, {5}, {0, 5}, EVERY - {4})]


@pytest.mark.parametrize("at_once", [4096, 10])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_mix_is_the_network_of_those_parts(network: Make, family: str, at_once: int) -> None:
    base, new = two(network, family)
    base.decoder.memory.logit_words = new.decoder.memory.logit_words = at_once
    whole, some = swaps(base, new).run(MIXES, ALL)
    assert set(whole) == {BASE, EVERY}
    assert set(some) == {BASE, EVERY, *MIXES}
    tokens = base.tokens[:8]
    usual = logits(base.decoder, new.decoder, BASE, tokens)[:, :-1]
    for mix, found in some.items():
        own = logits(base.decoder, new.decoder, mix, tokens)[:, :-1]
        losses = -own.gather(2, tokens[:, 1:, None])[..., 0].sum(dim=1)
        np.testing.assert_allclose(found.losses, losses.numpy(), rtol=1e-9)
        np.testing.assert_allclose(found.kl, (usual.exp() * (usual - own)).sum(dim=(1, 2)).numpy(), atol=1e-9)
    assert (some[BASE].kl == 0).all()


def test_some_sequences_are_those_of_all(network: Make) -> None:
    base, new = two(network)
    index = np.array([1, 4, 6])
    _, every = swaps(base, new).run(MIXES, ALL)
    whole, few = swaps(base, new).run(MIXES, index)
    assert len(whole[BASE].losses) == 8
    for mix, found in few.items():
        np.testing.assert_allclose(found.losses, every[mix].losses[index], rtol=1e-12)
        np.testing.assert_allclose(found.kl, every[mix].kl[index], atol=1e-12)


def test_what_is_not_to_be_predicted_counts_nowhere(network: Make) -> None:
    base, new = two(network)
    fed_only = torch.zeros(8, base.tokens.shape[1], dtype=torch.bool)
    fed_only[:, 1:6] = True
    _, found = swaps(base, new, tokens=data(base, fed_only)).run([frozenset({2})], ALL)
    own = logits(base.decoder, new.decoder, frozenset({2}), base.tokens[:8])[:, :-1]
    losses = -own.gather(2, base.tokens[:8, 1:, None])[..., 0]
    np.testing.assert_allclose(found[frozenset({2})].losses, losses[:, 5:].sum(dim=1).numpy(), rtol=1e-9)
    assert NO_TARGET not in base.tokens


def test_the_cost_is_what_was_counted(network: Make) -> None:
    base, new = two(network)
    mine = swaps(base, new)
    before = base.decoder.passes + new.decoder.passes
    mine.run([], ALL)
    own = base.decoder.passes + new.decoder.passes - before
    assert own == pytest.approx(2 * 8, rel=0.02)  # the last token isn't read
    before = base.decoder.passes + new.decoder.passes
    index = np.arange(4)
    mine.run(MIXES, index)
    done = base.decoder.passes + new.decoder.passes - before
    read_again = 4 * base.decoder.head_share  # BASE's predictions
    assert done == pytest.approx(own + 4 * mine.cost(MIXES) + read_again, rel=0.02)


def test_what_is_the_same_is_not_computed_twice(network: Make) -> None:
    base, new = two(network)
    only = swaps(base, new, frozenset({3}))
    before = base.decoder.work.blocks
    whole, _ = only.run([only.reduced({1, 2}), only.reduced({3})], ALL)
    assert only.reduced({1, 2}) == BASE
    assert base.decoder.work.blocks - before == 3 * 8
    assert new.decoder.work.blocks == LAYERS * len(new.tokens) + 8
    assert (whole[frozenset({3})].kl > 0).all()


def test_nothing_that_differs_is_zero_to_the_last_digit(network: Make) -> None:
    base, new = two(network)
    whole, some = swaps(base, new, frozenset()).run([], ALL)
    assert set(whole) == set(some) == {BASE}
    assert (some[BASE].kl == 0).all()


def test_a_network_that_overflows_is_named_by_its_layer(network: Make) -> None:
    base, new = two(network)
    with torch.no_grad():
        for parameter in new.decoder.block(2).module.parameters():
            parameter.fill_(float("inf"))
    with pytest.raises(NonFiniteResult, match="layer 2"):
        swaps(base, new).run([frozenset({2})], ALL)
