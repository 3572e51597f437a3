"""Rounded networks: what is measured of them is what they compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from peelaudit.method.bits.trials import Part, Trials, parts_of
from peelaudit.network.decoder import Decoder
from peelaudit.network.matrices import rounded
from peelaudit.network.states import Rows, StateStore, TokenRows
from tests.networks import Network

Make = Callable[..., Network]


def opened(made: Network) -> tuple[Trials, tuple[Part, ...], torch.Tensor]:
    parts, tokens = parts_of(made.decoder, 8), made.tokens[:6]
    data = TokenRows(tokens, Rows(slice(0, 0), slice(0, 0), slice(0, 6)))
    return Trials(made.decoder, parts, 8, data, StateStore(dtype=torch.float64)), parts, tokens


def logits(decoder: Decoder, bits: dict[Part, int], tokens: torch.Tensor) -> torch.Tensor:
    """By calling one block after another."""
    with torch.no_grad():
        state = decoder.embed(tokens)
        for layer in range(1, decoder.n_layers + 1):
            own = {part.name: width for part, width in bits.items() if part.layer == layer}
            state = rounded(decoder.block(layer), own, 8)(state)
        return F.linear(decoder.norm(state), decoder.head.weight, decoder.head.bias).log_softmax(dim=-1)[:, :-1]


def losses(found: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
    return -found.gather(2, tokens[:, 1:, None])[..., 0].sum(dim=1).numpy()


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_each_alone_is_the_network_with_that_one_rounded(network: Make, family: str) -> None:
    made = network(family)
    trials, parts, tokens = opened(made)
    usual = logits(made.decoder, {}, tokens)
    for name in dict.fromkeys(part.name for part in parts):
        base, found = trials.alone(name, 3)
        assert set(found) == {part for part in parts if part.name == name}
        np.testing.assert_allclose(base.losses, losses(usual, tokens), rtol=1e-9)
        for part, one in found.items():
            own = logits(made.decoder, {part: 3}, tokens)
            np.testing.assert_allclose(one.losses, losses(own, tokens), rtol=1e-9)
            np.testing.assert_allclose(one.kl, (usual.exp() * (usual - own)).sum(dim=(1, 2)).numpy(), atol=1e-9)


def test_a_plan_is_the_network_with_all_rounded_so(network: Make) -> None:
    made = network("llama")
    trials, parts, tokens = opened(made)
    plan = tuple(2 + number % 3 for number in range(len(parts)))
    base, found = trials.whole(plan)
    own = logits(made.decoder, dict(zip(parts, plan, strict=True)), tokens)
    np.testing.assert_allclose(found.losses, losses(own, tokens), rtol=1e-9)
    assert (base.kl == 0).all()
    assert found.kl.sum() > 0


def test_parts_are_all_weights_of_the_blocks_matrices_once(network: Make) -> None:
    made = network("mixtral")
    parts = parts_of(made.decoder, 32)
    block = made.decoder.block(1)
    assert block.router is not None
    every = sum(one.weight.numel() for path, one in block.linears().items() if path != block.router.path)
    assert sum(part.weights for part in parts if part.layer == 1) == every
    down = next(part for part in parts if part.name == "mlp.experts.down_proj")
    assert (down.groups, down.scales) == ((24,), down.weights // 24)  # 48 inputs


def test_the_cost_is_what_was_counted(network: Make) -> None:
    made = network("llama")
    trials, parts, tokens = opened(made)
    before = made.decoder.passes
    trials.alone(parts[0].name, 3)
    read_again = made.decoder.head_share  # the float network's predictions
    done = (made.decoder.passes - before) / len(tokens)
    assert done == pytest.approx(trials.cost(parts[0].name) + read_again, rel=0.1)
