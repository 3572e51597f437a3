"""Blocks that are untrained or silent are told by their looks, and trained ones aren't."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from peelaudit.auditing.faults import damaged
from peelaudit.auditing.prepare import held_decoder, prepared
from peelaudit.method.diagnosis.symptoms import RANDOM, signs, spectral_excess, symptoms
from peelaudit.network.block import Block
from peelaudit.network.states import StateStore, TokenRows, trained_states
from peelaudit.network.weights import check_weights
from peelaudit.records import FaultKind, LayerSigns, Symptom
from peelaudit.settings.audit import AuditConfig
from tests.checkpoints import models
from tests.networks import Network
from tests.places import FIXTURES


@pytest.mark.parametrize("shape", [(48, 48), (300, 100), (100, 300), (2, 64), (64, 1)])
def test_random_matrices_have_no_excess_and_a_direction_of_their_own_has(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(shape, generator=generator) for _ in range(100)]
    draws += [torch.rand(shape, generator=generator) - 0.5 for _ in range(100)]
    draws += [(torch.randn(shape, generator=generator) / 0.7).round().clamp(-1, 1) for _ in range(100)]
    assert max(spectral_excess(0.02 * draw + 0.1) for draw in draws) < RANDOM
    if min(shape) > 2:
        one = torch.outer(*(torch.randn(length, generator=generator) for length in shape))
        edge = math.sqrt(shape[0]) + math.sqrt(shape[1])
        learned = draws[0] + 2 * edge * one / one.norm()
        assert spectral_excess(learned) > RANDOM


def test_the_largest_eigenvalue_is_numpys() -> None:
    matrix = torch.randn(60, 80, generator=torch.Generator().manual_seed(1)) + torch.randn(60, 1)
    centred = (matrix - matrix.mean()) / float(matrix.std(correction=0))
    largest = float(np.linalg.svd(centred.double().numpy(), compute_uv=False)[0])
    rows, columns = math.sqrt(59), math.sqrt(80)
    scale = (rows + columns) * (1 / rows + 1 / columns) ** (1 / 3)
    assert spectral_excess(matrix) == pytest.approx((largest**2 - (rows + columns) ** 2) / scale, rel=1e-3)


def test_it_takes_no_random_numbers_from_anyone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    assert spectral_excess(torch.ones(5, 6)) < 0
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("family", models.families())
def test_what_each_half_writes_is_what_the_block_adds(network: Callable[..., Network], family: str) -> None:
    """With the other half silent, the block's output less its input is the half's own, less its mean."""
    made = network(family)
    block, inputs = made.decoder.block(1), made.states[0][made.rows.held_out]
    for kind, half in ((FaultKind.MLP_ZEROED, "attention_rms"), (FaultKind.ATTENTION_ZEROED, "mlp_rms")):
        one = damaged(block, kind, heads=4, seed=0)
        silent = {f"{writer.path}.bias": torch.zeros(writer.outputs) for writer in one.writers if writer.biased}
        one = one.replaced(silent)
        found = signs(one, made.states[0], made.rows.held_out)
        moved = (one(inputs) - inputs).flatten(0, 1).double()
        assert getattr(found, half) == pytest.approx(
            float((moved - moved.mean(dim=0)).square().mean().sqrt()), rel=1e-5
        )


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox", "phi"])
@pytest.mark.parametrize("kind", [FaultKind.MLP_ZEROED, FaultKind.ATTENTION_ZEROED])
def test_a_half_of_which_the_bias_is_left_is_silent(
    network: Callable[..., Network], family: str, kind: FaultKind
) -> None:
    made = network(family)
    whole = made.decoder.block(1)
    biases = {f"{writer.path}.bias": torch.randn(writer.outputs) for writer in whole.writers if writer.biased}
    assert biases
    one = damaged(whole.replaced(biases), kind, heads=4, seed=0)
    before, found = (signs(block, made.states[0], made.rows.held_out) for block in (whole, one))
    half = "mlp_rms" if kind is FaultKind.MLP_ZEROED else "attention_rms"
    assert getattr(found, half) < 1e-5 * getattr(before, half)


def test_silence_is_relative_to_the_other_layers() -> None:
    loud = LayerSigns(1.0, 10.0, 50.0)
    found = symptoms([loud, LayerSigns(0.0005, 9.0, 2.0), loud, LayerSigns(2.0, 0.0, 9.0)])
    assert found == ((), (Symptom.UNTRAINED, Symptom.ATTENTION_SILENT), (), (Symptom.MLP_SILENT,))


def test_layers_of_the_same_weights_are_told() -> None:
    layers, same = [LayerSigns(1.0, 1.0, 50.0)] * 5, (Symptom.SAME_WEIGHTS,)
    assert symptoms(layers, ["a", "b", "c", "b", "d"]) == ((), same, (), same, ())
    assert symptoms(layers, "abcde") == symptoms(layers) == ((),) * 5


@pytest.mark.parametrize(
    ("levels", "coarse"),
    [
        ((None, 2, None), [2]),  # one bit where the others are floats
        ((3, 3, 2, 3), [3]),  # and where they are ternary
        ((2, 2, 2), []),
        ((None, 2, 2), []),  # a float block, the first say, left as it was
        ((2, None, None, 3), [1, 4]),
        ((2,), []),
    ],
)
def test_few_values_are_coarse_where_most_layers_hold_more(levels: tuple[int | None, ...], coarse: list[int]) -> None:
    found = symptoms([LayerSigns(1.0, 1.0, 50.0, one) for one in levels])
    assert [layer for layer, some in enumerate(found, 1) if some == (Symptom.COARSE,)] == coarse


@pytest.mark.parametrize("name", ["nanogpt/ckpt.pt", "llama", "llama-ternary", "llama-binary", "mixtral"])
def test_trained_layers_have_none_and_damaged_ones_their_own(name: str) -> None:
    config = AuditConfig(checkpoint=str(FIXTURES / name), tokens=1024)
    with prepared(config) as audit:
        decoder, _ = held_decoder(audit, check_weights(audit.checkpoint))
        data, heads = TokenRows.of(audit.calibration), audit.checkpoint.info.heads
        states = trained_states(decoder, data.tokens, StateStore())

        def look(block: Block) -> LayerSigns:
            return signs(block, states[block.layer - 1], data.rows.held_out)

        blocks = [decoder.block(layer) for layer in range(1, decoder.n_layers + 1)]
        healthy = [look(block) for block in blocks]
        assert not any(symptoms(healthy))
        expected = {
            FaultKind.REINITIALISED: (Symptom.UNTRAINED,),
            FaultKind.ATTENTION_ZEROED: (Symptom.ATTENTION_SILENT,),
            FaultKind.MLP_ZEROED: (Symptom.MLP_SILENT,),
            FaultKind.NOISED: (),
            FaultKind.EXPERT_REINITIALISED: (Symptom.EXPERT_UNTRAINED,) if name == "mixtral" else (),
        }
        for index, block in enumerate(blocks):
            for kind, found in expected.items():
                sick = look(damaged(block, kind, heads=heads, seed=index))
                assert symptoms([*healthy[:index], sick, *healthy[index + 1 :]])[index] == found
            sick = look(damaged(block, FaultKind.ONE_BIT, heads=heads, seed=index))
            coarse = Symptom.COARSE in symptoms([*healthy[:index], sick, *healthy[index + 1 :]])[index]
            assert coarse == (name != "llama-binary")


def test_a_checkpoint_before_the_first_step_is_untrained_throughout() -> None:
    with prepared(AuditConfig(checkpoint=str(FIXTURES / "nanogpt" / "ckpt-000000.pt"), tokens=4096)) as audit:
        decoder, _ = held_decoder(audit, check_weights(audit.checkpoint))
        assert all(
            spectral_excess(linear.weight) <= RANDOM  # type: ignore[arg-type]
            for layer in range(1, decoder.n_layers + 1)
            for linear in decoder.block(layer).linears().values()
        )
