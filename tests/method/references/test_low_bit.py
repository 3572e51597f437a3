"""Reference blocks of low-bit networks: every weight in its set, by either solver, none worse than the trained ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from peelaudit.method.references.adam import adam
from peelaudit.method.references.closed_form import BlockRegression, FittedBlock
from peelaudit.method.references.distances import squared_error
from peelaudit.network.block import Block
from peelaudit.network.lowbit.constraints import Binary, Constraint, Integer, Ternary
from peelaudit.records import ScaleLayout, ZeroPoint
from tests.checkpoints import models
from tests.networks import Network

FAMILIES = ["gpt2", "llama", "gpt_neox", "phi", "gemma3_text", "olmo2", "opt", "bitnet"]
MIXTURES = ["mixtral", "qwen2_moe", "gpt_oss"]
"""Experts alone, beside an MLP with a gate, and kept the other way round with biases."""
EVERY_SET = ("gpt2", "llama", "gpt_oss")
"""Families that `make test` holds to every set, for a set is the same whatever the block; the others to one."""
WIDTHS = {"qwen2_moe": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 48}}
"""What groups of 16 inputs need."""
SETS: dict[str, Constraint] = {
    "binary": Binary(),
    "ternary": Ternary(),
    "int3": Integer(ScaleLayout.GROUP, 16, 3, ZeroPoint.FREE),
}

Opener = Callable[..., Network]


def cases(*families: str) -> list[Any]:
    """Each of these families with each of the sets."""
    return [
        pytest.param(
            family,
            name,
            marks=() if family in models.KINDS and (name == "ternary" or family in EVERY_SET) else pytest.mark.slow,
        )
        for family in families
        for name in SETS
    ]


def check_held(block: Block, bits: Constraint) -> None:
    assert block.held
    for name, parameter in block.module.named_parameters():
        is_router = block.router is not None and name == f"{block.router.path}.weight"
        assert (name in block.held) == (parameter.ndim == 2 and not is_router), name
        if name in block.held:
            assert bits.holds(block.held[name].matrix(parameter)), name


@pytest.mark.parametrize(("family", "name"), cases(*FAMILIES, *MIXTURES))
def test_every_weight_of_a_closed_form_block_is_in_its_set(family: str, name: str, network: Opener) -> None:
    opened = network(family, bits=SETS[name], dtype=torch.float32, changes=WIDTHS.get(family))
    block, target = opened.decoder.block(1), opened.states[2]
    check_held(block, SETS[name])
    regression = BlockRegression(block, opened.states[0], [target, opened.states[1]], opened.rows)
    fitted = regression.fit(0)
    check_held(fitted.block, SETS[name])
    assert fitted.method == "ridge"
    assert fitted.error < fitted.trained_error
    assert not torch.equal(fitted.block.writers[1].weight, block.writers[1].weight)
    errors = regression.errors([regression.change(0), None], opened.rows.select)
    assert fitted.error == pytest.approx(errors[0].sum(), rel=1e-4)
    assert regression.fit(1).method == "trained"


@pytest.mark.parametrize(("family", "name"), cases("gpt2", "llama", "bitnet", "mixtral", "gpt_oss"))
def test_every_weight_that_adam_leaves_is_in_its_set(family: str, name: str, network: Opener) -> None:
    opened = network(family, bits=SETS[name], dtype=torch.float32)
    block, target = opened.decoder.block(1), opened.states[2]
    error = squared_error(block, opened.states[0], target, opened.rows.select)
    start = FittedBlock(block, "trained", None, error, error)
    fitted = adam(start, opened.states[0], target, opened.rows, steps=40, seed=0)
    assert fitted.method == "adam"
    assert fitted.error < error
    check_held(fitted.block, SETS[name])
    check_held(block, SETS[name])
    assert fitted.error == squared_error(fitted.block, opened.states[0], target, opened.rows.select)


def test_without_the_bits_a_reference_is_at_least_as_near(network: Opener) -> None:
    opened = network("llama", bits=Ternary(), dtype=torch.float32)
    block, target = opened.decoder.block(1), opened.states[2]
    held, free = (
        BlockRegression(b, opened.states[0], [target], opened.rows).fit(0) for b in (block, block.unconstrained())
    )
    assert free.error < held.error
    assert not free.block.held


def test_an_expert_that_no_token_reaches_stays_as_it_is(network: Opener) -> None:
    model = models.model("gpt_oss")
    with torch.no_grad():
        model.model.layers[0].mlp.router.bias[2] = -1e4
    opened = network(model, bits=Ternary(), dtype=torch.float32)
    block = opened.decoder.block(1)
    regression = BlockRegression(block, opened.states[0], [opened.states[2]], opened.rows)
    fitted = regression.fit(0)
    check_held(fitted.block, Ternary())
    moved = [
        not torch.equal(new.weight, old.weight)
        for new, old in zip(fitted.block.writers[1:], block.writers[1:], strict=True)
    ]
    assert block.numbers[1:] == (0, 1, 2, 3)
    assert moved[2] is False
    assert any(moved)


def test_weights_that_were_stored_apart_have_scales_of_their_own(network: Opener) -> None:
    """Mixtral's experts have two first matrices in their files, and one here; gpt-oss's have one in both."""
    for family, parts in (("mixtral", 2), ("gpt_oss", 1)):
        model = models.model(family)
        block = network(model, bits=Ternary(), dtype=torch.float32).decoder.block(1)
        for number, stored in enumerate(model.model.layers[0].mlp.experts.gate_up_proj):
            name = f"mlp.experts.gate_up_proj.{number}.weight"
            found = block.module.get_parameter(name)
            pieces = stored.mT if family == "gpt_oss" else stored
            rounded = torch.cat([Ternary().quantise(piece) for piece in pieces.chunk(parts)])
            assert torch.equal(found.mT if family == "gpt_oss" else found, rounded)
            assert block.held[name].parts == parts
