"""Repairs of single blocks: exact gradients in every family, real losses, and the damaged layer first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from peelaudit.auditing.faults import damaged
from peelaudit.auditing.run import Prepared, prepared
from peelaudit.errors import OutputError
from peelaudit.method.readout import Unembedding, token_losses
from peelaudit.method.refinement.files import load_repair, repair_path, save_repair
from peelaudit.method.refinement.refine import Repair, Repairer, RepairMode
from peelaudit.method.statistics.bootstrap import ClusterBootstrap
from peelaudit.network.block import Block
from peelaudit.network.decoder import Decoder
from peelaudit.network.families import FAMILIES
from peelaudit.network.lowbit.constraints import Integer
from peelaudit.network.states import StateStore, TokenRows, trained_states
from peelaudit.records import FaultKind, ScaleLayout, ZeroPoint
from peelaudit.settings.audit import AuditConfig
from tests.method.refinement.support import downstream, loss_with, own_losses
from tests.networks import Network
from tests.places import NANOGPT

Opener = Callable[..., Network]


def repairs(network: Network, mode: RepairMode = "cheap") -> list[Repair]:
    found = Repairer(downstream(network), network.states, own_losses(network)).run(mode)
    return sorted(found, key=lambda repair: repair.layer)


# BitNet rounds its activations, so that its gradient is a straight-through one that differences don't see.
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"bitnet"}))
def test_gradients_are_those_of_finite_differences(network: Opener, family: str) -> None:
    made = network(family)
    down, rows = downstream(made), made.rows.fit
    gradient = down.top(made.states[-1][rows], rows)
    down.descend([state[rows] for state in made.states[1:-1]], 1, gradient)
    block = made.decoder.block(1)
    factors = down.factors(block, made.states[0][rows], gradient)
    assert factors.keys() == block.linears().keys()
    generator = torch.Generator().manual_seed(3)
    tokens = made.tokens[rows].numel()
    # Some families' norms compute in float32 in any case, which forbids a small step, and OPT's ReLU a large one.
    step = 1e-6 if family == "opt" else 3e-4
    for path, factor in factors.items():
        slope = factor.curvature().gradient
        change = {path: torch.randn(slope.shape, generator=generator, dtype=torch.float64)}
        up, low = (loss_with(made, block.changed({path: e * change[path]}), rows).sum() for e in (step, -step))
        expected = tokens * float((slope * change[path]).sum())
        assert (up - low) / (2 * step) == pytest.approx(expected, rel=1e-2, abs=0.05)


@pytest.mark.parametrize("mode", ["cheap", "thorough"])
def test_a_repair_is_never_worse_on_select_and_its_loss_is_real(network: Opener, mode: RepairMode) -> None:
    made = network("llama", changes={"num_hidden_layers": 3})
    own = own_losses(made)
    predictions = (made.rows.select.stop - made.rows.select.start) * (made.tokens.shape[1] - 1)
    found = repairs(made, mode)
    assert [repair.layer for repair in found] == [1, 2, 3]
    assert any(repair.steps for repair in found)
    for repair in found:
        assert (repair.select_gain > 0) == (repair.steps > 0)
        assert mode == "thorough" or repair.steps <= 1
        select = loss_with(made, repair.block, made.rows.select).sum()
        gain = (own[made.rows.select].sum() - select) / predictions
        assert repair.select_gain == pytest.approx(gain, abs=1e-9)
        np.testing.assert_allclose(repair.losses, loss_with(made, repair.block, made.rows.held_out), rtol=1e-9)


def test_more_steps_gain_no_less_on_select(network: Opener) -> None:
    made = network("gpt2")
    for one, more in zip(repairs(made), repairs(made, "thorough"), strict=True):
        assert more.select_gain >= one.select_gain


def test_repairs_are_the_same_every_time(network: Opener) -> None:
    made = network("phi")
    for one, other in zip(repairs(made), repairs(made), strict=True):
        np.testing.assert_array_equal(one.losses, other.losses)


def test_absent_biases_stay_absent(nanogpt: Network) -> None:
    found = repairs(nanogpt, "thorough")
    assert any(repair.steps for repair in found)
    for repair in found:
        biases = [t for name, t in repair.block.module.named_parameters() if name.endswith("bias")]
        assert len(biases) == 6
        assert not any(bool(bias.any()) for bias in biases)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_repair_of_a_low_bit_network_is_in_its_sets(network: Opener, family: str) -> None:
    bits = Integer(ScaleLayout.ROW, None, 3, ZeroPoint.SYMMETRIC)
    made = network(family, bits=bits)
    found = repairs(made, "thorough")
    assert any(repair.steps for repair in found)
    for repair in found:
        scales = made.decoder.block(repair.layer).scales()
        assert scales
        for name, held in repair.block.held.items():
            weight = repair.block.module.get_parameter(name)
            assert torch.equal(held.rounded(weight, scales[name]), weight)
        np.testing.assert_allclose(repair.losses, loss_with(made, repair.block, made.rows.held_out), rtol=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_saved_repair_gives_the_loss_that_was_measured(network: Opener, tmp_path: Path, family: str) -> None:
    made = network(family)
    for repair in repairs(made):
        save_repair(tmp_path / "new", made.decoder, repair.block, 0.1)
        loaded = load_repair(tmp_path / "new", made.decoder, repair.layer)
        np.testing.assert_array_equal(loss_with(made, loaded, made.rows.held_out), repair.losses)


def test_a_file_of_another_layer_is_refused(network: Opener, tmp_path: Path) -> None:
    made = network("llama")
    save_repair(tmp_path, made.decoder, made.decoder.block(1), 0.0)
    repair_path(tmp_path, 1).rename(repair_path(tmp_path, 2))
    with pytest.raises(OutputError, match="layer 2"):
        load_repair(tmp_path, made.decoder, 2)
    with pytest.raises(OutputError, match="layer-001"):
        load_repair(tmp_path, made.decoder, 1)


def test_a_directory_that_cannot_be_made_is_one_sentence(network: Opener, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = network("llama")
    with pytest.raises(OutputError, match="can't be written"):
        save_repair(tmp_path / "file" / "x", made.decoder, made.decoder.block(1), 0.0)


def adam_repair(network: Network, layer: int, steps: int) -> Block:
    """The block after Adam on the network's own loss, from the trained weights; the best of ten stops on *select*."""
    block, rows, best = network.decoder.block(layer), network.rows, (np.inf, network.decoder.block(layer))
    above = [network.decoder.block(k) for k in range(layer + 1, network.decoder.n_layers + 1)]
    unembedding = Unembedding.of(network.decoder)
    sizes = [(p.requires_grad_(), 0.003 * float(p.detach().square().mean().sqrt())) for p in block.trainable().values()]
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr or 1e-4} for p, lr in sizes], betas=(0.9, 0.95))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        chosen = torch.randint(rows.fit.stop, (16,), generator=generator)
        state = block(network.states[layer - 1][chosen])
        for other in above:
            state = other(state)
        loss = token_losses(unembedding.logits(state[:, :-1]), network.tokens[chosen, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
        if step % (steps // 10) == 0:
            kept = block.copy()
            kept.module.requires_grad_(requires_grad=False)
            best = min(best, (float(loss_with(network, kept, rows.select).sum()), kept), key=lambda pair: pair[0])
    return best[1]


@pytest.mark.slow
def test_a_repair_is_no_better_than_adam_for_long_and_at_least_half_as_good() -> None:
    config = AuditConfig(checkpoint=str(NANOGPT / "ckpt-000600.pt"), seq_len=64)
    with prepared(config) as audit:
        made, layer = network_of(audit), 3
        held_out = made.rows.held_out
        repair = repairs(made, "thorough")[layer - 1]
        own = own_losses(made)[held_out]
        adam = loss_with(made, adam_repair(made, layer, 2000), held_out)
        clusters = audit.calibration.held_out.clusters
    bootstrap = ClusterBootstrap(clusters, resamples=1000, seed=0)
    predictions = np.full(len(own), made.tokens.shape[1] - 1)
    ours, theirs = (bootstrap.ratio(own - losses, predictions) for losses in (repair.losses, adam))
    excess = bootstrap.ratio(adam - repair.losses, predictions)
    assert excess.low <= 0
    assert ours.value >= theirs.value / 2
    assert theirs.low > 0


@pytest.mark.parametrize("layer", [2, 4])
def test_the_damaged_layer_gains_most(layer: int) -> None:
    config = AuditConfig(checkpoint=str(NANOGPT / "ckpt.pt"), seq_len=64, tokens=8192)
    with prepared(config) as audit:
        made = network_of(audit, damaged_layer=layer)
        own, held_out = own_losses(made), made.rows.held_out
        gains = [float((own[held_out] - repair.losses).sum()) for repair in repairs(made, "thorough")]
    assert int(np.argmax(gains)) == layer - 1


def network_of(audit: Prepared, damaged_layer: int | None = None) -> Network:
    positions = audit.calibration.info.seq_len
    decoder = Decoder(audit.checkpoint, seq_len=positions, device=torch.device("cpu"), dtype=torch.float32)
    if damaged_layer is not None:
        block = decoder.block(damaged_layer)
        decoder = decoder.replacing(damaged(block, FaultKind.MLP_ZEROED, heads=4, seed=0))
    data = TokenRows.of(audit.calibration)
    return Network(decoder, data.tokens, data.rows, trained_states(decoder, data.tokens, StateStore()))
