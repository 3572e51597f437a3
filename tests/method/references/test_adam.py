"""Adam on a block: lower error or the start itself, the same by seed, and nothing changed that it was given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.references.adam import Latent, adam
from peelaudit.method.references.closed_form import BlockRegression, FittedBlock
from peelaudit.method.references.distances import squared_error
from peelaudit.network.lowbit.constraints import Ternary
from tests.networks import Network, splits

Opener = Callable[..., Network]


def start_of(network: Network, target: Tensor) -> FittedBlock:
    block = network.decoder.block(1)
    error = squared_error(block, network.states[0], target, network.rows.select)
    return FittedBlock(block, "trained", None, error, error)


def weights(fitted: FittedBlock) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in fitted.block.module.state_dict().items()}


def fit(network: Network, start: FittedBlock, target: Tensor, *, steps: int = 24, seed: int = 0) -> FittedBlock:
    return adam(start, network.states[0], target, network.rows, steps=steps, seed=seed)


def differing(first: FittedBlock, second: FittedBlock) -> set[str]:
    others = weights(second)
    return {name for name, tensor in weights(first).items() if not torch.equal(tensor, others[name])}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "olmo2", "gpt_neox", "opt", "bitnet"])
def test_it_lowers_the_error_and_says_what_it_is(family: str, network: Opener) -> None:
    opened = network(family)
    target = opened.states[2]
    start = start_of(opened, target)
    fitted = fit(opened, start, target)
    assert fitted.method == "adam"
    assert fitted.error < start.error == fitted.trained_error
    assert fitted.error == squared_error(fitted.block, opened.states[0], target, opened.rows.select)
    assert not any(parameter.requires_grad for parameter in fitted.block.module.parameters())


def test_every_weight_of_the_block_is_trained(network: Opener) -> None:
    opened = network("gpt2")
    start = start_of(opened, opened.states[2])
    assert differing(start, fit(opened, start, opened.states[2])) == set(weights(start))


def test_the_start_is_kept_where_no_stop_was_better(network: Opener) -> None:
    opened = network("llama")
    start = start_of(opened, opened.states[1])
    assert start.error == 0
    assert fit(opened, start, opened.states[1]) is start


def test_the_start_is_left_as_it_was(network: Opener) -> None:
    opened = network("gpt2")
    start = start_of(opened, opened.states[2])
    before = weights(start)
    fit(opened, start, opened.states[2])
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(start).items())
    assert not any(parameter.requires_grad for parameter in start.block.module.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_scales_of_a_low_bit_start_are_left_as_they_were(dtype: torch.dtype, network: Opener) -> None:
    """In float16 and bfloat16 a block brings scales of its own, which its copies share."""
    opened = network("llama", bits=Ternary(), dtype=dtype)
    start = start_of(opened, opened.states[2])
    before = {name: scales.scale.clone() for name, scales in start.block.scales().items()}
    fit(opened, start, opened.states[2])
    assert all(torch.equal(before[name], scales.scale) for name, scales in start.block.scales().items())
    assert not any(scales.scale.requires_grad for scales in start.block.scales().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rounded_block_keeps_its_scales_while_training_goes_on(dtype: torch.dtype, network: Opener) -> None:
    latent = Latent(network("llama", bits=Ternary(), dtype=dtype).decoder.block(1).copy())
    kept = latent.rounded()
    before = {name: scales.scale.clone() for name, scales in kept.scales().items()}
    with torch.no_grad():
        for parameter in latent.parameters:
            parameter.mul_(2)
    assert all(torch.equal(before[name], scales.scale) for name, scales in kept.scales().items())
    assert not any(scales.scale.requires_grad for scales in kept.scales().values())
    after = latent.rounded().scales()
    assert all(not torch.equal(before[name], after[name].scale) for name in before)


def test_the_same_seed_gives_the_same_block_and_another_one_another(network: Opener) -> None:
    opened = network("llama", rows=splits(240, 8, 6))  # more than a minibatch
    start = start_of(opened, opened.states[2])
    first, again, other = (fit(opened, start, opened.states[2], seed=seed) for seed in (0, 0, 1))
    assert not differing(first, again)
    assert first.error == again.error
    assert differing(first, other)


def test_a_warm_start_ends_no_worse_and_keeps_the_penalty(network: Opener) -> None:
    opened = network("gpt2")
    target = opened.states[2]
    start = BlockRegression(opened.decoder.block(1), opened.states[0], [target], opened.rows).fit(0)
    fitted = fit(opened, start, target)
    assert fitted.error < start.error
    assert (fitted.penalty, fitted.trained_error) == (start.penalty, start.trained_error)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_enough_to_stop_at(steps: int, network: Opener) -> None:
    opened = network("llama")
    start = start_of(opened, opened.states[2])
    assert fit(opened, start, opened.states[2], steps=steps).error <= start.error


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused_by_layer(bad: float, network: Opener) -> None:
    opened = network("llama")
    target = opened.states[2].clone()
    start = start_of(opened, target)
    target[opened.rows.fit] = bad
    with pytest.raises(NonFiniteResult, match="layer 1: the loss of Adam became NaN or Inf at step 1"):
        fit(opened, start, target)


def test_what_the_checkpoint_is_without_is_not_trained(nanogpt: Network) -> None:
    start = start_of(nanogpt, nanogpt.states[2])
    fitted = fit(nanogpt, start, nanogpt.states[2])
    assert fitted.method == "adam"
    biases = {name for name in weights(start) if name.endswith("bias")}
    assert len(biases) == 6
    assert not any(tensor.any() for name, tensor in weights(fitted).items() if name in biases)
    assert differing(start, fitted) == set(weights(start)) - biases
