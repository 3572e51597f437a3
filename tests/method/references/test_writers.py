"""What the writers see: the block's output is linear in their change, exactly where no norm stands behind them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from peelaudit.method.references.writers import observe, split_change, trainable_writers, undo_gains
from peelaudit.network.block import Block
from tests.checkpoints import models
from tests.networks import Network

FAMILIES = models.families(*models.MIXTURES)
POST_NORM = ("gemma3_text", "olmo2")
PARALLEL = ("gpt_neox", "phi")
BIASED = ("gpt2", "gpt_neox", "opt", "phi")

Opener = Callable[..., Network]


def a_change(block: Block, inputs: Tensor, size: float) -> tuple[tuple[int, ...], Tensor]:
    """The writers that change together, and a random change of them, [features, d_model]."""
    writers = trainable_writers(block, inputs[:1])
    features = observe(block, inputs[:1], writers).features.shape[1]
    generator = torch.Generator().manual_seed(0)
    return writers, size * torch.randn(features, inputs.shape[-1], generator=generator, dtype=inputs.dtype)


def states_of(block: Block, network: Network) -> Tensor:
    return network.states[block.layer - 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_that_run_attention_and_mlp_side_by_side_change_both(family: str, network: Opener) -> None:
    opened = network(family)
    for layer in (1, 2):
        block = opened.decoder.block(layer)
        expected = (0, 1) if family in PARALLEL else (1,)
        assert trainable_writers(block, states_of(block, opened)[:1]) == expected


def test_gpt_neox_without_the_parallel_residual_changes_the_mlp_alone(network: Opener) -> None:
    opened = network("gpt_neox", changes={"use_parallel_residual": False})
    assert trainable_writers(opened.decoder.block(1), opened.states[0][:1]) == (1,)


@pytest.mark.parametrize("family", ["llama", "gpt2", "olmo2"])
def test_an_attention_whose_writer_is_zero_still_moves_the_mlp_once_it_is_changed(family: str, network: Opener) -> None:
    model = models.model(family)
    writers = [module for name, module in model.named_modules() if name.endswith(("o_proj", "attn.c_proj"))]
    assert len(writers) == 2
    with torch.no_grad():
        for parameter in (parameter for writer in writers for parameter in writer.parameters()):
            parameter.zero_()
    opened = network(model)
    assert trainable_writers(opened.decoder.block(1), opened.states[0][:1]) == (1,)


@pytest.mark.parametrize("family", FAMILIES)
def test_watching_a_block_changes_nothing(family: str, network: Opener) -> None:
    opened = network(family)
    block, inputs = opened.decoder.block(1), opened.states[0]
    plain = block(inputs)
    seen = observe(block, inputs, trainable_writers(block, inputs[:1]))
    assert torch.equal(seen.output.view_as(plain), plain)
    assert torch.equal(block(inputs), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in block.module.modules())


@pytest.mark.parametrize("family", models.families(*models.MIXTURES, *POST_NORM))
def test_the_predicted_output_is_the_changed_blocks_own(family: str, network: Opener) -> None:
    opened = network(family)
    block, inputs = opened.decoder.block(2), opened.states[1]
    writers, change = a_change(block, inputs, 0.3)
    seen = observe(block, inputs, writers)
    changed = block.changed(split_change(block, writers, undo_gains(block, writers, change)))
    torch.testing.assert_close(
        (seen.output + seen.features @ change).view_as(inputs), changed(inputs), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("family", POST_NORM)
def test_behind_a_norm_the_prediction_is_right_to_first_order_up_to_the_norms_own_scale(
    family: str, network: Opener
) -> None:
    """The scale of each token is frozen: what is left of the error lies along the writer's own, normed product.

    To a thousandth, for these norms compute in float32.
    """
    opened = network(family)
    block, inputs = opened.decoder.block(2), opened.states[1]
    writers, change = a_change(block, inputs, 3e-5)
    seen = observe(block, inputs, writers)
    changed = block.changed(split_change(block, writers, undo_gains(block, writers, change)))
    moved = changed(inputs).reshape(seen.output.shape) - seen.output
    predicted = seen.features @ change
    normed: list[Tensor] = []
    norm = block.norms[1]
    assert isinstance(norm, nn.Module)
    handle = norm.register_forward_hook(lambda _module, _args, output: normed.append(output))
    block(inputs)
    handle.remove()
    direction = nn.functional.normalize(normed[0].reshape(seen.output.shape), dim=-1)
    error = moved - predicted
    across = error - (error * direction).sum(-1, keepdim=True) * direction
    assert float(moved.norm()) > 0
    assert float(across.norm()) < 1e-3 * float(moved.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_column_of_ones_stands_for_each_bias_that_the_checkpoint_has(family: str, network: Opener) -> None:
    opened = network(family)
    block, inputs = opened.decoder.block(1), opened.states[0]
    biased = family in BIASED
    assert [writer.biased for writer in block.writers] == [biased, biased]
    features = observe(block, inputs, (0, 1)).features
    ones = [column for column in features.T if bool((column == 1).all())]
    assert len(ones) == 2 * biased
    changes = split_change(block, (0, 1), torch.ones(features.shape[1], 32, dtype=features.dtype))
    assert [len(changes[writer.path]) - writer.inputs for writer in block.writers] == [biased, biased]
    changed = block.changed(changes)
    for before, after in zip(block.writers, changed.writers, strict=True):
        if biased:
            torch.testing.assert_close(after.bias, before.bias + 1)
        else:
            assert after.bias is None


@pytest.mark.parametrize("family", FAMILIES)
def test_applying_a_change_leaves_the_block_as_it_was(family: str, network: Opener) -> None:
    opened = network(family)
    block, inputs = opened.decoder.block(1), opened.states[0]
    before = {name: tensor.clone() for name, tensor in block.module.state_dict().items()}
    writers, change = a_change(block, inputs, 1.0)
    changed = block.changed(split_change(block, writers, undo_gains(block, writers, change)))
    assert all(torch.equal(before[name], tensor) for name, tensor in block.module.state_dict().items())
    touched = {name for name, tensor in changed.module.state_dict().items() if not torch.equal(before[name], tensor)}
    assert {name.rpartition(".")[0] for name in touched} == {block.writers[index].path for index in writers}


def test_a_channel_that_the_norm_shuts_gets_no_change(network: Opener) -> None:
    model = models.model("olmo2")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.post_feedforward_layernorm.weight[3] = 0
    opened = network(model)
    block, inputs = opened.decoder.block(1), opened.states[0]
    writers, change = a_change(block, inputs, 1.0)
    (part,) = split_change(block, writers, undo_gains(block, writers, change)).values()
    assert not part[:, 3].any()
    assert torch.isfinite(part).all()
    assert part[:, 2].any()


@pytest.mark.parametrize("family", models.MIXTURES)
def test_of_a_mixture_each_expert_sees_its_own_tokens(family: str, network: Opener) -> None:
    """What a change of all writers makes of the output is the sum over them, each on the tokens that go through it."""
    opened = network(family)
    block, inputs = opened.decoder.block(2), opened.states[1]
    writers = trainable_writers(block, inputs[:1])
    assert sorted(writers) == list(range(1, len(block.writers)))
    seen = observe(block, inputs, writers)
    assert len(seen.groups) == 4 + (family in ("deepseek_v3", "qwen2_moe"))
    generator = torch.Generator().manual_seed(0)
    parts = [
        0.3 * torch.randn(group.values.shape[1], inputs.shape[-1], generator=generator, dtype=inputs.dtype)
        for group in seen.groups
    ]
    expected = seen.output.clone()
    for group, part in zip(seen.groups, parts, strict=True):
        rows = slice(None) if group.rows is None else group.rows
        expected[rows] += group.values @ part
    changed = block.changed(split_change(block, writers, torch.cat(parts)))
    tolerance = 1e-10 if family == "gpt_oss" else 1e-6  # the others' routers compute in float32
    torch.testing.assert_close(expected.view_as(inputs), changed(inputs), rtol=tolerance, atol=tolerance)
