"""The network above a block: its losses and gradients are those of the whole network, by transformers' own autograd."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from peelaudit.errors import NonFiniteResult
from tests.checkpoints import models
from tests.method.refinement.support import downstream, loss_with, own_losses
from tests.networks import Network

Opener = Callable[..., Network]
LAYERS = 3


def gradients(model: transformers.PreTrainedModel, tokens: Tensor) -> list[Tensor]:
    """Of the loss summed over all predictions, at each block's output, through the whole of transformers' model."""
    outputs: list[Tensor] = []
    (blocks,) = (one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == LAYERS)
    for block in blocks:
        block.register_forward_hook(
            lambda module, given, made: outputs.append(made[0] if isinstance(made, tuple) else made)
        )
    logits = model(input_ids=tokens).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    return list(torch.autograd.grad(loss, outputs))


@pytest.fixture
def deep(network: Opener) -> Network:
    return network("llama", changes={"num_hidden_layers": LAYERS})


@pytest.mark.parametrize(
    ("family", "depth"), [("gpt2", "n_layer"), ("llama", "num_hidden_layers"), ("phi", "num_hidden_layers")]
)
def test_gradients_are_autograds_through_the_whole_model(family: str, depth: str, network: Opener) -> None:
    model = models.model(family, **{depth: LAYERS})
    made = network(model)
    rows = made.rows.select
    expected = gradients(model.double(), made.tokens[rows])
    down = downstream(made)
    for layer in range(1, LAYERS + 1):
        gradient = down.top(made.states[-1][rows], rows)
        down.descend([state[rows] for state in made.states[layer:-1]], layer, gradient)
        torch.testing.assert_close(gradient, expected[layer - 1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("layer", range(1, LAYERS + 1))
def test_with_the_trained_block_the_losses_are_the_networks_own(layer: int, deep: Network) -> None:
    down, rows = downstream(deep), deep.rows.held_out
    state = down.apply(deep.decoder.block(layer), deep.states[layer - 1][rows], "the block")
    np.testing.assert_allclose(down.losses(layer, state, rows, "the network"), own_losses(deep)[rows], rtol=1e-9)


def test_with_another_block_they_are_those_of_the_network_that_has_it(deep: Network) -> None:
    down, rows, block = downstream(deep), deep.rows.held_out, deep.decoder.block(1).copy()
    nn.init.zeros_(block.writers[0].weight)
    state = down.apply(block, deep.states[0][rows], "the block")
    found = down.losses(1, state, rows, "the network")
    np.testing.assert_allclose(found, loss_with(deep, block, rows), rtol=1e-9)
    assert not np.allclose(found, own_losses(deep)[rows], rtol=1e-3)


def test_a_trained_state_rises_to_the_trained_states_above_it(deep: Network) -> None:
    rows = deep.rows.fit
    given = deep.states[1][rows]
    states = downstream(deep).rise(1, given, "the network")
    assert states[0] is given
    for found, trained in zip(states, deep.states[1:], strict=True):
        torch.testing.assert_close(found, trained[rows], rtol=1e-9, atol=1e-9)


def test_a_state_is_left_as_it_was_and_written_where_it_is_told(deep: Network) -> None:
    down, given = downstream(deep), deep.states[0][deep.rows.select].clone()
    before, into = given.clone(), torch.empty_like(given)
    assert down.apply(deep.decoder.block(1), given, "the block", into=into) is into
    torch.testing.assert_close(given, before, rtol=0, atol=0)
    torch.testing.assert_close(into, deep.states[1][deep.rows.select], rtol=1e-9, atol=1e-9)


def test_work_is_counted_in_forward_passes_over_a_sequence(deep: Network) -> None:
    down, rows = downstream(deep), deep.rows.select
    count, before = rows.stop - rows.start, deep.decoder.work.blocks

    def passes() -> float:
        return (deep.decoder.work.blocks - before) / count

    down.rise(1, deep.states[1][rows], "the network")
    assert passes() == 2
    gradient = down.top(deep.states[-1][rows], rows)
    assert passes() == 2
    down.descend([deep.states[2][rows]], 2, gradient)
    assert passes() == 2 + 3
    down.push(deep.decoder.block(3), deep.states[2][rows], torch.zeros_like(gradient), {})
    assert passes() == 2 + 3 + 2


def test_a_state_or_a_loss_that_is_not_finite_names_what_it_is_of(deep: Network) -> None:
    down, rows = downstream(deep), deep.rows.select
    block = deep.decoder.block(1).copy()
    nn.init.constant_(block.writers[1].weight, math.nan)
    with pytest.raises(NonFiniteResult, match="the repair of layer 1"):
        down.apply(block, deep.states[0][rows], "the repair of layer 1")
    with pytest.raises(NonFiniteResult, match="the repair of layer 3"):
        down.losses(LAYERS, torch.full_like(deep.states[-1][rows], math.nan), rows, "the repair of layer 3")


def test_a_gradient_that_is_not_finite_names_the_layer_it_came_to(deep: Network) -> None:
    down, rows = downstream(deep), deep.rows.select
    gradient = torch.full_like(deep.states[-1][rows], math.inf)
    with pytest.raises(NonFiniteResult, match="at the output of layer 3 holds NaN or Inf"):
        down.descend([state[rows] for state in deep.states[1:-1]], 1, gradient)
