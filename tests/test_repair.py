"""Repairs of single blocks: exact gradients in every family, real losses, and the damaged layer first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peelaudit.decoder import FAMILIES, Block
from peelaudit.downstream import Downstream
from peelaudit.errors import OutputError
from peelaudit.hidden_states import StateStore, TokenRows
from peelaudit.readout import Readout, Unembedding
from peelaudit.repair import Repair, Repairer, RepairMode, changed, on_grid
from peelaudit.repair_files import load_repair, repair_path, save_repair
from tests.networks import Network

Opener = Callable[..., Network]
LLAMA = Path(__file__).parent.parent / "fixtures" / "llama"


def downstream(network: Network) -> Downstream:
    data = TokenRows(network.tokens, network.rows)
    readout = Readout("own", Unembedding.of(network.decoder))
    return Downstream(network.decoder, data, readout, StateStore(dtype=network.states[0].dtype))


def own_losses(network: Network) -> np.ndarray:
    rows = network.rows.everything
    return downstream(network).losses(network.decoder.n_layers, network.states[-1].clone(), rows, "the network")


def repairs(network: Network, mode: RepairMode = "cheap") -> list[Repair]:
    found = Repairer(downstream(network), network.states, own_losses(network)).run(mode)
    return sorted(found, key=lambda repair: repair.layer)


def loss_with(network: Network, block: Block, rows: slice) -> np.ndarray:
    """The network's losses with a block in the place of its own, by a plain run through all blocks."""
    decoder = network.decoder.replacing(block)
    state = decoder.embed(network.tokens[rows])
    for layer in range(1, decoder.n_layers + 1):
        state = decoder.block(layer)(state)
    return Readout("own", Unembedding.of(decoder)).losses(
        state, network.tokens[rows], torch.arange(len(state)), "the network"
    )


# BitNet rounds its activations, so that its gradient is a straight-through one that differences don't see.
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"bitnet"}))
def test_gradients_are_those_of_finite_differences(network: Opener, family: str) -> None:
    made = network(family)
    down, rows = downstream(made), made.rows.fit
    gradient = down.top(made.states[-1][rows], rows)
    assert list(down.descend([state[rows] for state in made.states[1:-1]], 1, gradient)) == [2, 1]
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
        up, low = (loss_with(made, changed(block, {path: e * change[path]}), rows).sum() for e in (step, -step))
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
    for repair in repairs(nanogpt, "thorough"):
        assert not any(
            bool(t.any()) for name, t in repair.block.module.named_parameters() if name.endswith("c_fc.bias")
        )


def test_a_repair_under_a_grid_is_on_it(network: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    class Halves:
        def quantise(self, weight: Any) -> Any:
            return (2 * weight).round() / 2

    name = "mlp.down_proj.weight"
    monkeypatch.setattr(Block, "constraints", {name: Halves()}, raising=False)
    made = network("llama")
    for layer in (1, 2):
        block = made.decoder.block(layer)
        block.module.get_parameter(name).mul_(20)
        made = Network(made.decoder.replacing(on_grid(block)), made.tokens, made.rows, made.states)
    states = [made.states[0]]
    for layer in (1, 2):
        states.append(made.decoder.block(layer)(states[-1]))
    made = Network(made.decoder, made.tokens, made.rows, tuple(states))
    found = repairs(made, "thorough")
    assert any(repair.steps for repair in found)
    for repair in found:
        doubled = 2 * repair.block.module.get_parameter(name)
        assert torch.equal(doubled, doubled.round())
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
