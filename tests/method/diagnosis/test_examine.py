"""What is measured of each block: gains on held-out, slopes, looks, and losses with another block."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from peelaudit.errors import NonFiniteResult
from peelaudit.method.diagnosis.examine import Examiner, LayerGain, LayerGains
from peelaudit.method.diagnosis.influence import influence
from peelaudit.method.diagnosis.slopes import block_slopes
from peelaudit.method.diagnosis.symptoms import signs
from peelaudit.method.refinement.reach import Reach
from peelaudit.method.refinement.refine import Refined, Refiner
from peelaudit.method.statistics.panel import Panel
from peelaudit.network.lowbit.constraints import Ternary
from tests.method.refinement.support import downstream, loss_with, own_losses
from tests.networks import Network

Opener = Callable[..., Network]
CHEAP, FAR = Reach(steps=1), Reach(products=4, rounds=2)


def panel_of(network: Network) -> Panel:
    """Of all sequences, each a cluster."""
    rows = network.rows
    splits = {"fit": rows.fit, "select": rows.select, "held_out": rows.held_out}
    clusters = {name: np.arange(part.stop - part.start) for name, part in splits.items()}
    return Panel.of(clusters, network.tokens.shape[1], resamples=100, seed=0)  # type: ignore[arg-type]


def examiner(network: Network) -> Examiner:
    return Examiner(downstream(network), network.states, panel_of(network), own_losses(network))


def gaps(network: Network, reach: Reach) -> tuple[Refiner, list[tuple[Refined, LayerGain]], LayerGains]:
    """Every block refined alone, and that of all."""
    down, own = downstream(network), own_losses(network)
    refiner = Refiner(down, network.states, own)
    looks = Examiner(down, network.states, panel_of(network), own)
    found = list(looks.gaps(refiner, reach))
    gains = LayerGains.of([gain for _, gain in found], reach, low_bit=network.decoder.low_bit)
    assert looks.examination(gains).gains is gains
    return refiner, found, gains


@pytest.mark.parametrize("reach", [CHEAP, FAR])
def test_a_gain_is_the_own_loss_less_the_refined_on_held_out_and_nothing_elsewhere(
    reach: Reach, network: Opener
) -> None:
    made = network("llama")
    own, rows = own_losses(made), made.rows.held_out
    refiner, found, gains = gaps(made, reach)
    assert [refined.layers for refined, _ in found] == [(2, 2), (1, 1)]
    assert not gains.low_bit
    assert gains.first_step == (reach == CHEAP)
    assert gains.passes > 0
    for refined, one in found:
        index = refined.layers[0] - 1
        gain = gains.gains[index]
        np.testing.assert_allclose(gain[rows], own[rows] - refiner.losses(refined, rows), rtol=1e-12)
        assert not gain[: rows.start].any()
        assert one.losses is gain
        assert (gains.steps[index], gains.products[index]) == (refined.steps, refined.products)
    assert any(gains.steps)
    assert any(gains.products) == (reach == FAR)


def test_the_cost_of_gaps_is_theirs_alone(network: Opener) -> None:
    made = network("llama")
    down, own = downstream(made), own_losses(made)
    refiner = Refiner(down, made.states, own)
    refiner.all(FAR)
    before = refiner.work
    looks = Examiner(down, made.states, panel_of(made), own)
    found = [gain for _, gain in looks.gaps(refiner, CHEAP)]
    gains = LayerGains.of(found, CHEAP, low_bit=False)
    assert len(found) == 2
    assert 0 < gains.passes == pytest.approx(refiner.passes(before))


def test_where_no_block_is_refined_there_is_no_gain(network: Opener) -> None:
    assert examiner(network("llama")).examination().gains is None


def test_gains_of_a_low_bit_network_say_so(network: Opener) -> None:
    _, found, gains = gaps(network("llama", bits=Ternary()), CHEAP)
    assert len(found) == 2
    assert gains.low_bit


def test_with_the_trained_block_the_losses_are_the_networks_own(network: Opener) -> None:
    made = network("gpt2")
    looks = examiner(made)
    for layer in (1, 2):
        found = looks.losses_with(made.decoder.block(layer), "the network")
        np.testing.assert_allclose(found, own_losses(made)[made.rows.held_out], rtol=1e-9)


def test_with_another_block_they_are_those_of_the_network_that_has_it(network: Opener) -> None:
    made = network("gpt2")
    block = made.decoder.block(1).copy()
    nn.init.zeros_(block.writers[1].weight)
    found = examiner(made).losses_with(block, "the network")
    np.testing.assert_allclose(found, loss_with(made, block, made.rows.held_out), rtol=1e-9)
    nn.init.constant_(block.writers[1].weight, math.nan)
    with pytest.raises(NonFiniteResult, match="layer 1 as saved"):
        examiner(made).losses_with(block, "layer 1 as saved")


def test_every_block_is_looked_at_on_held_out(network: Opener) -> None:
    made = network("llama")
    rows, found = made.rows.held_out, examiner(made).examination()
    np.testing.assert_array_equal(found.losses, own_losses(made))
    blocks = [made.decoder.block(layer) for layer in (1, 2)]
    assert found.digests == tuple(block.digest() for block in blocks)
    assert len(set(found.digests)) == 2
    for layer, turned in enumerate(found.influences, 1):
        np.testing.assert_array_equal(turned, influence(made.states[layer - 1][rows], made.states[layer][rows]))
    assert len(found.influences) == 2
    assert found.signs == tuple(signs(block, made.states[block.layer - 1], rows) for block in blocks)


def test_slopes_are_of_held_out_and_nothing_elsewhere(network: Opener) -> None:
    made = network("llama")
    rows, found = made.rows.held_out, examiner(made).examination()
    expected = block_slopes(downstream(made), made.states, rows)
    for slopes, block in zip(found.slopes, expected, strict=True):
        assert slopes is not None
        assert block is not None
        for spread, own in zip(slopes, block, strict=True):
            np.testing.assert_allclose(spread[rows], own, rtol=1e-12)
            assert own.any()
            assert not spread[: rows.start].any()
