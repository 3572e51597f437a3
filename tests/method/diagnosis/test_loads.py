"""Experts' loads: the shares of tokens that a router gives to each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from peelaudit.method.diagnosis.loads import loads
from tests.checkpoints import models
from tests.networks import Network

Opener = Callable[..., Network]


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "qwen2_moe"])
def test_loads_are_what_transformers_own_router_chooses(family: str, network: Opener) -> None:
    model = models.model(family)
    made = network(model)
    model.double().set_experts_implementation("eager")  # the others have no float64
    layer = model.model.layers[0]
    given: list[torch.Tensor] = []
    router = layer.mlp.router if family == "gpt_oss" else layer.mlp.gate
    router.register_forward_hook(lambda _module, _args, output: given.append(output[2]))
    with torch.no_grad():
        model(input_ids=made.tokens, use_cache=False)
    chosen = given[0].view(len(made.tokens), -1)
    found = loads(made.decoder.block(1), made.states[0])
    assert found is not None
    for number in range(4):
        expected = (chosen == number).sum(dim=1) / made.tokens.shape[1]
        torch.testing.assert_close(torch.from_numpy(found[:, number]), expected.double())
    assert found.sum(axis=1) == pytest.approx(2)  # experts for each token


def test_blocks_without_experts_have_none(network: Opener) -> None:
    made = network("deepseek_v3")  # whose first is dense
    assert loads(made.decoder.block(1), made.states[0]) is None
    assert loads(made.decoder.block(2), made.states[1]) is not None
