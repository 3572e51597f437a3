"""The closed form of a block through the real block: its errors, its optimum, and never worse than what was trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.references.closed_form import BlockRegression
from peelaudit.method.references.distances import squared_error
from peelaudit.method.references.writers import observe, split_change
from peelaudit.network.lowbit.constraints import Integer
from peelaudit.network.states import Rows, StateStore
from peelaudit.records import ScaleLayout, ZeroPoint
from tests.checkpoints import models
from tests.networks import Network, splits

FAMILIES = ["gpt2", "llama", "gpt_neox", "phi", "gemma3_text", "olmo2", "opt", "bitnet"]
POST_NORM = ("gemma3_text", "olmo2")

Opener = Callable[..., Network]


def targets_of(opened: Network) -> list[Tensor]:
    """The state after the next block, one that is out of reach, and one that has nothing to do with the input."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(opened.states[1].shape, generator=generator, dtype=opened.states[1].dtype)
    return [opened.states[2], 10 * opened.states[1].roll(1, 1), noise]


def regression_of(opened: Network, targets: list[Tensor]) -> BlockRegression:
    return BlockRegression(opened.decoder.block(1), opened.states[0], targets, opened.rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_are_those_computed_directly(family: str, network: Opener) -> None:
    opened = network(family)
    targets = targets_of(opened)
    regression = regression_of(opened, targets)
    block = opened.decoder.block(1)
    changes = [*(regression.change(index) for index in (0, 1)), None]
    for rows in (opened.rows.select, opened.rows.held_out):
        found = regression.errors(changes, rows)
        for index, (change, target) in enumerate(zip(changes, targets, strict=True)):
            changed = block
            if change is not None:
                changed = block.changed(split_change(block, regression.writers, change.value))
            expected = (changed(opened.states[0]) - target)[rows].square().sum(dim=(1, 2))
            np.testing.assert_allclose(found[index], expected, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changes_error_is_the_real_blocks_on_select(family: str, network: Opener) -> None:
    opened = network(family)
    targets = targets_of(opened)
    regression = regression_of(opened, targets)
    for index in (0, 1):
        change, fitted = regression.change(index), regression.fit(index)
        if change is None:
            assert index == 1, "there is something to gain on the way to the next state"
            assert fitted.method == "trained"
            continue
        errors = regression.errors([change] * len(targets), opened.rows.select)
        assert change.error == pytest.approx(errors[index].sum(), rel=1e-8)
        assert change.error < regression.trained_error(index)
        assert (fitted.method, fitted.penalty) == ("ridge", change.penalty)
        assert fitted.error == pytest.approx(change.error, rel=1e-8)


@pytest.mark.parametrize("rows", [splits(24, 8, 6), splits(1, 1, 1), splits(2, 1, 1)], ids=["many", "one", "two"])
@pytest.mark.parametrize("family", FAMILIES)
def test_on_select_nothing_is_worse_than_the_trained_weights(family: str, rows: Rows, network: Opener) -> None:
    opened = network(family, rows=rows)
    targets = targets_of(opened)
    regression = regression_of(opened, targets)
    for index, target in enumerate(targets):
        fitted = regression.fit(index)
        trained = squared_error(opened.decoder.block(1), opened.states[0], target, rows.select)
        assert fitted.trained_error == pytest.approx(trained, rel=1e-10)
        assert fitted.error <= fitted.trained_error
        real = squared_error(fitted.block, opened.states[0], target, rows.select)
        assert fitted.error == pytest.approx(real, rel=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [None, Integer(ScaleLayout.ROW, None, 4, ZeroPoint.SYMMETRIC)])
def test_the_state_that_is_known_is_what_the_fitted_block_makes(
    family: str, bits: Integer | None, network: Opener
) -> None:
    opened = network(family, bits=bits)
    targets = [*targets_of(opened), opened.states[1]]
    block = opened.decoder.block(1)
    regression = BlockRegression(block, opened.states[0], targets, opened.rows, StateStore(dtype=torch.float64))
    before = opened.decoder.work.blocks
    found = [regression.fit(index) for index in range(len(targets))]
    spent = opened.decoder.work.blocks - before
    if family in POST_NORM:
        assert all(one.state is None for one in found)
        return
    assert {one.method for one in found} == {"ridge", "trained"}
    assert spent < len(opened.tokens) * len(targets)
    for one, target in zip(found, targets, strict=True):
        assert one.state is not None
        torch.testing.assert_close(one.state, one.block(opened.states[0]), rtol=1e-9, atol=1e-9)
        real = squared_error(one.block, opened.states[0], target, opened.rows.select)
        assert one.error == pytest.approx(real, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("dtype", "budget"), [(torch.bfloat16, None), (torch.float32, 4096)])
def test_no_state_is_known_in_half_precision_or_without_room(
    dtype: torch.dtype, budget: int | None, network: Opener
) -> None:
    """Then the real block is asked, as without a store."""
    opened = network("llama", dtype=dtype)
    regression = BlockRegression(
        opened.decoder.block(1), opened.states[0], [opened.states[2]], opened.rows, StateStore(budget, dtype)
    )
    fitted = regression.fit(0)
    assert fitted.state is None
    assert fitted.error == squared_error(fitted.block, opened.states[0], opened.states[2], opened.rows.select)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_blocks_own_output_asks_for_no_change(family: str, network: Opener) -> None:
    opened = network(family)
    regression = regression_of(opened, [opened.states[1]])
    fitted = regression.fit(0)
    assert regression.change(0) is None
    assert (fitted.method, fitted.penalty, fitted.error, fitted.trained_error) == ("trained", None, 0.0, 0.0)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(POST_NORM)))
def test_as_the_penalty_falls_the_block_reaches_the_least_squares_optimum(family: str, network: Opener) -> None:
    opened = network(family)
    target = opened.states[2]
    regression = regression_of(opened, [target])
    block, fit = opened.decoder.block(1), opened.rows.fit
    seen = observe(block, opened.states[0][fit], regression.writers)
    features, residuals = seen.features.numpy(), (target[fit].reshape(seen.output.shape) - seen.output).numpy()
    best = np.linalg.lstsq(features, residuals, rcond=1e-12)[0]
    least = float(((features @ best - residuals) ** 2).sum())
    factor = regression.ridges[0].factor(1e-13)
    assert factor is not None
    change = torch.cholesky_solve(torch.from_numpy(features.T @ residuals), factor)
    changed = block.changed(split_change(block, regression.writers, change))
    error = squared_error(changed, opened.states[0], target, fit)
    assert error == pytest.approx(least, rel=1e-6)
    assert error < 0.99 * squared_error(block, opened.states[0], target, fit)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_attention_that_writes_nothing_is_fitted_like_any_other(family: str, network: Opener) -> None:
    model = models.model(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "o_proj" in name or "attn.c_proj" in name:
                parameter.zero_()
    opened = network(model)
    regression = regression_of(opened, [opened.states[2]])
    change = regression.change(0)
    assert change is not None
    assert regression.fit(0).error == pytest.approx(change.error, rel=1e-8)


def test_float32_agrees_with_float64(network: Opener) -> None:
    narrow, wide = (network("gpt2", dtype=dtype) for dtype in (torch.float32, torch.float64))
    errors = [regression_of(opened, [opened.states[2]]).fit(0).error for opened in (narrow, wide)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_targets_that_are_not_finite_are_refused_by_layer(network: Opener) -> None:
    opened = network("llama")
    bad = opened.states[2].clone()
    bad[0, 0, 0] = float("inf")
    with pytest.raises(NonFiniteResult, match="layer 1"):
        regression_of(opened, [bad])


def test_an_output_that_is_not_finite_is_refused_by_layer(network: Opener) -> None:
    opened = network("llama")
    inputs = opened.states[0].clone()
    inputs[3, 2, 1] = float("nan")
    with pytest.raises(NonFiniteResult, match="layer 1"):
        squared_error(opened.decoder.block(1), inputs, opened.states[1], opened.rows.fit)
    with pytest.raises(NonFiniteResult):
        BlockRegression(opened.decoder.block(1), inputs, [opened.states[2]], opened.rows)


@pytest.mark.parametrize("family", models.MIXTURES)
def test_a_mixtures_experts_are_fitted_each_on_its_tokens_and_are_never_worse_together(
    family: str, network: Callable[..., Network]
) -> None:
    opened = network(family, changes={"num_hidden_layers": 3})
    block, targets = opened.decoder.block(2), [opened.states[3], opened.states[2]]
    regression = BlockRegression(block, opened.states[1], targets, opened.rows)
    fitted = regression.fit(0)
    assert fitted.method == "ridge"
    assert fitted.error < fitted.trained_error
    assert fitted.error == pytest.approx(regression.errors([regression.change(0), None], opened.rows.select)[0].sum())
    assert regression.change(1) is None  # its own output can't be bettered
    assert fitted.conditioning is not None
    assert fitted.conditioning.unknowns == sum(writer.inputs + writer.biased for writer in block.writers[1:])


def test_an_expert_that_no_token_reaches_is_left_as_it_is(network: Callable[..., Network]) -> None:
    model = models.model("gpt_oss", num_hidden_layers=3)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.router.bias[2] = -1e4
    opened = network(model)
    block = opened.decoder.block(2)
    fitted = BlockRegression(block, opened.states[1], [opened.states[3]], opened.rows).fit(0)
    assert fitted.method == "ridge"
    for number in range(4):
        path = f"mlp.experts.down_proj.{number}.weight"
        same = torch.equal(fitted.block.module.state_dict()[path], block.module.state_dict()[path])
        assert same == (number == 2)
