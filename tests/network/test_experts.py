"""Experts as maps of their own: what transformers computes with them in a few tensors, and with its names for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peelaudit.method.refinement.files import load_block, save_block
from peelaudit.network.experts import are_experts, separate
from peelaudit.network.linear import tapped
from peelaudit.network.parts import Unclear
from peelaudit.network.routes import Routes
from tests.checkpoints import models
from tests.network.registry import tiny_model
from tests.networks import Network

Opener = Callable[..., Network]


def experts_of(family: str, **changes: object) -> Any:
    model = models.model(family, **changes)
    return next(module for module in model.model.layers[1].modules() if are_experts(module))


def routed(count: int, tokens: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens that go to the first `count` of four experts, two each, and all of them to the first."""
    generator = torch.Generator().manual_seed(1)
    others = 1 + torch.randint(count - 1, (tokens, 1), generator=generator)
    experts = torch.cat([torch.zeros_like(others), others], dim=1)
    return torch.randn(tokens, 32, generator=generator), experts, torch.rand(tokens, 2, generator=generator)


@pytest.mark.parametrize("family", models.MIXTURES)
def test_apart_they_compute_what_they_do_together(family: str) -> None:
    module = experts_of(family)
    given = routed(3)
    module.config._experts_implementation = "eager"
    wanted = module(*given)
    separate(module)
    with torch.no_grad():
        torch.testing.assert_close(module(*given), wanted.detach(), rtol=1e-5, atol=1e-7)


def test_an_expert_sees_the_tokens_that_are_given_to_it_alone() -> None:
    module, (hidden, experts, weights) = experts_of("mixtral"), routed(3)
    separate(module)
    seen: dict[int, Tensor] = {}
    routes = Routes()
    maps = enumerate(module.gate_up_proj)
    with (
        tapped([(one, lambda given, _, number=number: seen.update({number: given})) for number, one in maps]),
        tapped([(module.routing, routes.keep)]),
    ):
        module(hidden, experts, weights)
    assert set(seen) == {0, 1, 2}
    for number in range(4):
        tokens, shares = routes.of(number)
        assert torch.equal(tokens, (experts == number).any(dim=1).nonzero()[:, 0])
        assert torch.equal(shares[:, 0], weights[experts == number])
        if number in seen:
            assert torch.equal(seen[number], hidden[tokens])


def test_experts_that_are_given_all_tokens_compute_apart_what_they_do_together() -> None:
    layer = tiny_model("llama4_text").model.layers[1]
    hidden = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = layer.feed_forward(hidden)[0]
        logits = hidden @ layer.feed_forward.router.weight.T
    separate(layer)
    routes = Routes()
    seen: list[Tensor] = []
    taps = [
        (layer.feed_forward.experts.routing, routes.keep),
        (layer.feed_forward.router, lambda _, product: seen.append(product)),
    ]
    with tapped(taps), torch.no_grad():
        found = layer.feed_forward(hidden)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(seen[0], logits)
    chosen = logits.topk(2, dim=1).indices
    for number in range(4):
        assert torch.equal(routes.of(number)[0], (chosen == number).any(dim=1).nonzero()[:, 0])


def test_experts_that_compute_something_else_are_refused() -> None:
    module = experts_of("mixtral")
    type(module)._apply_gate, kept = (lambda self, inner: 2 * inner.chunk(2, dim=-1)[0]), type(module)._apply_gate
    try:
        with pytest.raises(Unclear, match="computed in a way that isn't known"):
            separate(module)
    finally:
        type(module)._apply_gate = kept


def test_a_router_that_returns_something_else_is_refused() -> None:
    layer = models.model("mixtral").model.layers[0]
    router = layer.mlp.gate
    router.forward = lambda hidden, inner=router.forward: (inner(hidden)[0].softmax(dim=-1), *inner(hidden)[1:])
    with pytest.raises(Unclear, match="its router returns something else"):
        separate(layer)


@pytest.mark.parametrize("family", models.MIXTURES)
def test_saved_blocks_have_the_names_that_transformers_has(family: str, network: Opener, tmp_path: Path) -> None:
    made = network(family)
    block = made.decoder.block(2)
    names = dict(models.model(family).model.layers[1].state_dict())
    assert {name: one.shape for name, one in block.present().items()} == {n: one.shape for n, one in names.items()}
    changed = block.replaced({f"{path}.weight": 2 * one.weight for path, one in block.linears().items()})
    save_block(tmp_path, made.decoder, changed, {})
    loaded = load_block(tmp_path, made.decoder, 2)
    hidden = made.states[1][:2]
    assert torch.equal(loaded(hidden), changed(hidden))
    assert not torch.equal(loaded(hidden), block(hidden))
