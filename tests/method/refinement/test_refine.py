"""Refined blocks, alone and all at once: exact derivatives in every family, real losses, the damaged layer first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from peelaudit.auditing.faults import damaged
from peelaudit.auditing.prepare import Prepared, prepared
from peelaudit.errors import NonFiniteResult, OutputError
from peelaudit.method.linalg.changes import block_changes, dot, times
from peelaudit.method.linalg.kronecker import Factors
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.refinement.changed_network import ChangedNetwork
from peelaudit.method.refinement.files import block_path, load_block, load_head, save_block, save_head
from peelaudit.method.refinement.reach import Reach
from peelaudit.method.refinement.refine import Refined, Refiner
from peelaudit.method.statistics.bootstrap import ClusterBootstrap
from peelaudit.network.block import Block
from peelaudit.network.decoder import Decoder
from peelaudit.network.linear import tapped
from peelaudit.network.lowbit.constraints import Integer
from peelaudit.network.states import StateStore, TokenRows, trained_states
from peelaudit.records import FaultKind, ScaleLayout, ZeroPoint
from peelaudit.settings.audit import AuditConfig
from tests.checkpoints import models
from tests.losses import token_losses
from tests.method.refinement.support import downstream, loss_with, own_losses
from tests.networks import Network
from tests.places import NANOGPT

Opener = Callable[..., Network]


CHEAP, FAR = Reach(steps=1), Reach(products=4, rounds=2)


def refiner(network: Network) -> Refiner:
    return Refiner(downstream(network), network.states, own_losses(network))


def alone(network: Network, reach: Reach = CHEAP) -> list[tuple[Refined, Block, np.ndarray]]:
    """Each block refined alone, the first first, and the held-out losses with it."""
    made = refiner(network)
    found = []
    for refined in made.each(reach):
        (block,) = made.blocks(refined)
        found.append((refined, block, made.losses(refined, network.rows.held_out)))
    return sorted(found, key=lambda one: one[0].layers)


def test_what_fit_came_to_is_known_until_the_blocks_are_others(network: Opener) -> None:
    made = network("llama")
    blocks, everything, fit = (1, made.decoder.n_layers), slice(0, len(made.tokens)), made.rows.fit
    changed, work = ChangedNetwork(downstream(made), made.states), made.decoder.work
    step = times(0.1, changed.swept(blocks, {}).natural)
    changes = changed.stepped({}, step)

    def cost(rows: slice) -> float:
        before = work.blocks
        fresh = ChangedNetwork(downstream(made), made.states).final(blocks, changes, rows)
        between = work.blocks
        torch.testing.assert_close(changed.final(blocks, changes, rows), fresh, rtol=1e-9, atol=1e-9)
        return (work.blocks - between) / (between - before)

    assert cost(everything) == 1
    changed.risen(blocks, changes)
    assert cost(everything) == pytest.approx(1 - (fit.stop - fit.start) / len(made.tokens))
    assert cost(made.rows.held_out) == cost(fit) == 1
    changes = changed.stepped(changes, step)
    assert cost(everything) == 1


def test_a_curvature_that_overflows_names_the_layer(network: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a first token without an embedding: behind each norm its gradient is a thousand times larger."""
    made = network("llama")
    down = downstream(made)
    top = down.top
    monkeypatch.setattr(down, "top", lambda final, rows: 1e200 * top(final, rows))
    with pytest.raises(NonFiniteResult, match=r"^layer 2, \S+_proj: the curvature of the loss .* holds NaN or Inf"):
        ChangedNetwork(down, made.states).swept((1, made.decoder.n_layers), {})


# BitNet rounds its activations, so that its gradient is a straight-through one that differences don't see.
@pytest.mark.parametrize("family", models.families("bitnet"))
def test_gradients_are_those_of_finite_differences(network: Opener, family: str) -> None:
    made = network(family, changes=models.SMOOTH.get(family, {}))
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
        slope = factor.curvature(tokens).gradient
        change = {path: torch.randn(slope.shape, generator=generator, dtype=torch.float64)}
        up, low = (loss_with(made, block.changed({path: e * change[path]}), rows).sum() for e in (step, -step))
        expected = tokens * float((slope * change[path]).sum())
        assert (up - low) / (2 * step) == pytest.approx(expected, rel=1e-2, abs=0.05)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "phi", "qwen2", "qwen2_moe"])
def test_directions_are_those_of_each_map_by_itself(network: Opener, family: str) -> None:
    """Maps that see the same tokens share what is summed of them, whatever the batches: none shares another's."""
    made = network(family)
    down, rows = downstream(made), made.rows.fit
    gradient = down.top(made.states[-1][rows], rows)
    down.descend([state[rows] for state in made.states[1:-1]], 1, gradient)
    block, hidden = made.decoder.block(1), made.states[0][rows].clone().requires_grad_()
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    taps = [
        (one.module, lambda given, out, path=path: seen.update({path: (given, out)}))
        for path, one in block.linears().items()
    ]
    with tapped(taps):
        output = block(hidden)
    seen = {path: (given.detach(), out) for path, (given, out) in seen.items() if out.requires_grad}
    pulls = torch.autograd.grad(output, [out for _, out in seen.values()], gradient, allow_unused=True)
    made.decoder.memory.tokens = 5 * hidden.shape[1]
    assert len(hidden) % 5
    found = down.factors(block, hidden.detach(), gradient.clone())
    shared = len({id(factor.inputs) for factor in found.values()}) < len(found)
    assert shared == (family not in {"gpt2", "gpt_neox"})  # of which one map makes queries, keys and values
    for (path, (given, _)), pull in zip(seen.items(), pulls, strict=True):
        one = block.linears()[path]
        alone = Factors(one.inputs, one.outputs, biased=one.biased, device=hidden.device)
        x, g = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (given, torch.zeros(()) if pull is None else pull))
        alone.add(x, g)
        tokens = hidden.shape[0] * hidden.shape[1]
        expected, direction = (factor.curvature(tokens).direction() for factor in (alone, found[path]))
        torch.testing.assert_close(direction, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("family", models.families("bitnet"))
def test_curvature_products_are_those_of_the_whole_jacobian(network: Opener, family: str) -> None:
    made = network(family, changes=models.SMOOTH.get(family, {}))
    down, layers = downstream(made), made.decoder.n_layers
    rows = slice(made.rows.fit.start, made.rows.fit.stop, 2)
    generator = torch.Generator().manual_seed(3)
    along = {
        (layer, path): torch.randn(slope.shape, generator=generator, dtype=torch.float64)
        for layer in (1, layers)
        for path, slope in down.gradients(
            made.decoder.block(layer), made.states[layer - 1][rows], torch.ones_like(made.states[layer][rows])
        ).items()
    }
    states = [state[rows] for state in made.states]
    product = ChangedNetwork(down, made.states).product((1, layers), {}, states, along, rows)
    step = 1e-4

    def logits(sign: float) -> torch.Tensor:
        decoder = made.decoder
        for layer in (1, layers):
            changes = {path: sign * step * change for path, change in block_changes(along, layer).items()}
            decoder = decoder.replacing(made.decoder.block(layer).changed(changes))
        state = made.states[0][rows]
        for layer in range(1, layers + 1):
            state = decoder.block(layer)(state)
        return Unembedding.of(made.decoder).logits(state)[:, :-1].double()

    moved = (logits(1) - logits(-1)) / (2 * step)
    p = Unembedding.of(made.decoder).logits(made.states[-1][rows])[:, :-1].double().softmax(dim=-1)
    expected = float((p * moved.square()).sum() - (p * moved).sum(dim=-1).square().sum()) / moved[..., 0].numel()
    assert dot({key: product[key] for key in along}, along) == pytest.approx(expected, rel=1e-2)


def test_an_estimate_is_the_quadratic_model_on_other_text(network: Opener) -> None:
    made = network("llama", changes={"num_hidden_layers": 3})
    changed, rows, step = ChangedNetwork(downstream(made), made.states), made.rows.held_out, 1e-4
    natural = changed.swept((1, 3), {}).natural
    slopes, bends = changed.modelled(natural, rows)
    up, low = (changed.losses((1, 3), times(sign * step, natural), rows) for sign in (1, -1))
    np.testing.assert_allclose(slopes, (up - low) / (2 * step), rtol=1e-2, atol=1e-2)
    assert (bends > 0).all()
    gain = refiner(made).estimated()
    assert gain is not None
    select, curved = changed.modelled(natural, made.rows.select)
    length = max(0.0, -select.sum() / curved.sum())
    np.testing.assert_allclose(gain, -length * slopes - length**2 / 2 * bends)


@pytest.mark.parametrize("reach", [CHEAP, FAR])
def test_a_refined_block_is_never_worse_on_select_and_its_loss_is_real(network: Opener, reach: Reach) -> None:
    made = network("llama", changes={"num_hidden_layers": 3})
    own = own_losses(made)
    predictions = (made.rows.select.stop - made.rows.select.start) * (made.tokens.shape[1] - 1)
    found = alone(made, reach)
    assert [refined.layers for refined, _, _ in found] == [(1, 1), (2, 2), (3, 3)]
    assert any(refined.moved for refined, _, _ in found)
    for refined, block, losses in found:
        assert (refined.select_gain > 0) == refined.moved
        assert reach == FAR or (refined.steps <= 1 and refined.products == 0)
        select = loss_with(made, block, made.rows.select).sum()
        gain = (own[made.rows.select].sum() - select) / predictions
        assert refined.select_gain == pytest.approx(gain, abs=1e-9)
        np.testing.assert_allclose(losses, loss_with(made, block, made.rows.held_out), rtol=1e-9)


def test_all_blocks_at_once_gain_on_select_and_their_loss_is_real(network: Opener) -> None:
    made = network("llama", changes={"num_hidden_layers": 3})
    refining = refiner(made)
    refined = refining.all(FAR)
    assert refined.layers == (1, 3)
    assert refined.select_gain > max(one.select_gain for one, _, _ in alone(made, CHEAP)) / 2 > 0
    decoder = made.decoder
    for block in refining.blocks(refined):
        decoder = decoder.replacing(block)
    held_out = made.tokens[made.rows.held_out]
    states = trained_states(decoder, held_out, StateStore(dtype=torch.float64))
    losses = token_losses(Unembedding.of(decoder).logits(states[-1][:, :-1]), held_out[:, 1:]).sum(dim=1)
    np.testing.assert_allclose(refining.losses(refined, made.rows.held_out), losses.numpy(), rtol=1e-9)


def test_more_steps_gain_no_less_on_select(network: Opener) -> None:
    made = network("gpt2")
    for (one, _, _), (more, _, _) in zip(alone(made), alone(made, FAR), strict=True):
        assert more.select_gain >= one.select_gain


def test_refined_blocks_are_the_same_every_time(network: Opener) -> None:
    made = network("phi")
    for (_, _, one), (_, _, other) in zip(*(alone(made, Reach(steps=2, products=2)) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_absent_biases_stay_absent(nanogpt: Network) -> None:
    found = alone(nanogpt, FAR)
    assert any(refined.moved for refined, _, _ in found)
    for _, block, _ in found:
        biases = [t for name, t in block.module.named_parameters() if name.endswith("bias")]
        assert len(biases) == 6
        assert not any(bool(bias.any()) for bias in biases)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_refined_block_of_a_low_bit_network_is_in_its_sets(network: Opener, family: str) -> None:
    bits = Integer(ScaleLayout.ROW, None, 3, ZeroPoint.SYMMETRIC)
    made = network(family, bits=bits)
    found = alone(made, FAR)
    assert any(refined.moved for refined, _, _ in found)
    for refined, block, losses in found:
        assert refined.products == 0
        scales = made.decoder.block(block.layer).scales()
        assert scales
        for name, held in block.held.items() if refined.moved else ():
            weight = block.module.get_parameter(name)
            assert torch.equal(held.rounded(weight, scales[name]), weight)
        np.testing.assert_allclose(losses, loss_with(made, block, made.rows.held_out), rtol=1e-9)


def test_the_scales_of_a_low_bit_block_are_read_once(network: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("llama", bits=Integer(ScaleLayout.ROW, None, 3, ZeroPoint.SYMMETRIC))
    read: list[int] = []
    scales = Block.scales
    monkeypatch.setattr(Block, "scales", lambda block: read.append(block.layer) or scales(block))
    found = refiner(made)
    found.all(Reach(steps=2))
    list(found.each(Reach(steps=2)))
    assert sorted(read) == list(range(1, made.decoder.n_layers + 1))


def test_looks_at_a_part_of_select_cost_less_and_are_of_that_part(
    nanogpt: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peelaudit.method.refinement.refine.LEAST_LOOKED", 1)
    costs, found = [], []
    for thinned in (1, 2):
        made = refiner(nanogpt)
        before = made.work
        found.append(made.all(Reach(steps=1, thinned=thinned)))
        costs.append(made.passes(before))
    assert costs[1] < costs[0]
    assert all(refined.moved for refined in found)
    rows = nanogpt.rows.select
    looked = slice(rows.start, rows.stop, 2)
    before, after = own_losses(nanogpt)[looked].sum(), made.losses(found[1], looked).sum()
    predictions = len(nanogpt.tokens[looked]) * (nanogpt.tokens.shape[1] - 1)
    assert found[1].select_gain == pytest.approx((before - after) / predictions)


def test_curvature_of_a_part_of_fit_costs_less_and_all_of_it_gives_the_gradient(
    nanogpt: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peelaudit.method.refinement.refine.LEAST_CURVED", 1)
    costs, found = [], []
    for curved in (1, 4):
        made = refiner(nanogpt)
        before = made.work
        found.append(made.all(Reach(steps=0, products=2, curved=curved)))
        costs.append(made.passes(before))
    assert all(refined.moved and refined.products == 2 for refined in found)
    assert costs[1] < 0.8 * costs[0]
    assert found[1].select_gain == pytest.approx(found[0].select_gain, rel=0.5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_products_from_the_trained_blocks_too_are_at_least_as_good_on_select(network: Opener, family: str) -> None:
    made = network(family)
    steps, products, both = (
        [refined for refined, _, _ in alone(made, reach)]
        for reach in (Reach(products=4), Reach(steps=0, products=4), Reach(products=4, afresh=True))
    )
    for one, other, best in zip(steps, products, both, strict=True):
        assert best.select_gain == max(one.select_gain, other.select_gain)
        assert best.steps in (one.steps, 0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_saved_block_gives_the_loss_that_was_measured(network: Opener, tmp_path: Path, family: str) -> None:
    made = network(family)
    for _, block, losses in alone(made):
        save_block(tmp_path / "new", made.decoder, block, {"gap": "0.1"})
        loaded = load_block(tmp_path / "new", made.decoder, block.layer)
        np.testing.assert_array_equal(loss_with(made, loaded, made.rows.held_out), losses)


def test_a_saved_head_reads_as_before(network: Opener, tmp_path: Path) -> None:
    made = network("gpt2")
    head = Readout("refit", Unembedding.of(made.decoder).scaled(0.5))
    save_head(tmp_path, made.decoder, head)
    loaded = load_head(tmp_path, made.decoder, Readout("refit", Unembedding.of(made.decoder)))
    index = torch.arange(len(made.tokens))
    assert not np.allclose(head.losses(made.states[-1], made.tokens, index, "x"), own_losses(made))
    np.testing.assert_array_equal(*(one.losses(made.states[-1], made.tokens, index, "x") for one in (head, loaded)))


def test_a_file_of_another_layer_is_refused(network: Opener, tmp_path: Path) -> None:
    made = network("llama")
    save_block(tmp_path, made.decoder, made.decoder.block(1), {})
    block_path(tmp_path, 1).rename(block_path(tmp_path, 2))
    with pytest.raises(OutputError, match="layer 2"):
        load_block(tmp_path, made.decoder, 2)
    with pytest.raises(OutputError, match="layer-001"):
        load_block(tmp_path, made.decoder, 1)


def test_a_directory_that_cannot_be_made_is_one_sentence(network: Opener, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = network("llama")
    with pytest.raises(OutputError, match="can't be written"):
        save_block(tmp_path / "file" / "x", made.decoder, made.decoder.block(1), {})


def by_adam(network: Network, layer: int, steps: int) -> Block:
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
def test_a_refined_block_is_no_better_than_adam_for_long_and_at_least_half_as_good() -> None:
    config = AuditConfig(checkpoint=str(NANOGPT / "ckpt-000600.pt"), seq_len=64)
    with prepared(config) as audit:
        made, layer = network_of(audit), 3
        held_out = made.rows.held_out
        _, _, refined = alone(made, FAR)[layer - 1]
        own = own_losses(made)[held_out]
        adam = loss_with(made, by_adam(made, layer, 2000), held_out)
        clusters = audit.calibration.held_out.clusters
    bootstrap = ClusterBootstrap(clusters, resamples=1000, seed=0)
    predictions = np.full(len(own), made.tokens.shape[1] - 1)
    ours, theirs = (bootstrap.ratio(own - losses, predictions) for losses in (refined, adam))
    excess = bootstrap.ratio(adam - refined, predictions)
    assert excess.low <= 0
    assert ours.value >= theirs.value / 2
    assert theirs.low > 0


@pytest.mark.parametrize("layer", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_damaged_layer_gains_most(layer: int) -> None:
    config = AuditConfig(checkpoint=str(NANOGPT / "ckpt.pt"), seq_len=64, tokens=4096)
    with prepared(config) as audit:
        made = network_of(audit, damaged_layer=layer)
        own, held_out = own_losses(made), made.rows.held_out
        gains = [float((own[held_out] - losses).sum()) for _, _, losses in alone(made, Reach())]
    assert int(np.argmax(gains)) == layer - 1


def network_of(audit: Prepared, damaged_layer: int | None = None) -> Network:
    positions = audit.calibration.info.seq_len
    decoder = Decoder(audit.checkpoint, seq_len=positions, device=torch.device("cpu"), dtype=torch.float32)
    if damaged_layer is not None:
        block = decoder.block(damaged_layer)
        decoder = decoder.replacing(damaged(block, FaultKind.MLP_ZEROED, heads=4, seed=0))
    data = TokenRows.of(audit.calibration)
    return Network(decoder, data.tokens, data.rows, trained_states(decoder, data.tokens, StateStore()))
