"""The decoder: its table of families, what each block is called with, and one block's weights at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from peelaudit.auditing.faults import damaged
from peelaudit.checkpoints import Checkpoint, open_checkpoint
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.network import decoder as decoders
from peelaudit.network.decoder import Decoder
from peelaudit.network.lowbit.constraints import Integer, Ternary
from peelaudit.network.states import StateStore, trained_states
from peelaudit.network.unembedding import Unembedding
from peelaudit.records import FaultKind, ScaleLayout, ZeroPoint
from tests.checkpoints import models
from tests.networks import Network

CPU = torch.device("cpu")
Opener = Callable[..., Network]


def decoder_of(checkpoint: Checkpoint, seq_len: int = 8) -> Decoder:
    return Decoder(checkpoint, seq_len=seq_len, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("family", sorted(models.CONFIGS))
def test_the_whole_decoder_is_transformers_own_model(family: str, network: Opener) -> None:
    model = models.model(family)
    opened = network(model, dtype=torch.float32)
    decoder = opened.decoder
    assert (decoder.n_layers, decoder.width, decoder.vocabulary) == (2, 32, 64)
    logits = Unembedding.of(decoder).logits(opened.states[-1])
    with torch.no_grad():
        torch.testing.assert_close(logits, model(input_ids=opened.tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", sorted(models.CONFIGS))
def test_writers_are_what_adds_to_the_residual_stream(family: str, network: Opener) -> None:
    """With both writers silent, and their norms' nothing, a block passes its input on."""
    opened = network(family)
    block = opened.decoder.block(1)
    for writer in block.writers:
        for parameter in writer.module.parameters():
            parameter.zero_()
    torch.testing.assert_close(block(opened.states[0]), opened.states[0])


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    folder = models.save(models.model("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(UnsupportedCheckpoint, match="bert is an encoder;"):
        open_checkpoint(folder)


@pytest.mark.parametrize("family", ["gemma3_text", "mistral"])
def test_a_sliding_window_reaches_the_blocks(family: str, network: Opener) -> None:
    """A token further back than the window, in the layers that have one, moves nothing."""
    mixed = {"layer_types": ["full_attention", "sliding_attention"]} if family == "gemma3_text" else {}
    opened = network(family, changes={"sliding_window": 4, **mixed}, positions=16)
    layer_types = getattr(opened.decoder.config, "layer_types", None) or ["sliding_attention"] * 2
    inputs = opened.states[0][:1]
    moved = inputs.clone()
    moved[0, 2] += 1
    for layer, kind in enumerate(layer_types, 1):
        block = opened.decoder.block(layer)
        changed = (block(moved) - block(inputs)).abs().amax(dim=-1)[0]
        assert not changed[:2].any(), "a later token moved an earlier one"
        assert bool((changed[2:6] > 0).all())
        assert bool(changed[6:].any()) == (kind == "full_attention")


def test_gemmas_layers_have_rotary_tables_of_their_own(network: Opener) -> None:
    types = ["full_attention", "sliding_attention"]
    model = models.model("gemma3_text", layer_types=types, sliding_window=4)
    opened = network(model, positions=24, dtype=torch.float32)
    with torch.no_grad():
        expected = model(input_ids=opened.tokens, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(opened.states[1], expected, rtol=1e-5, atol=1e-5)
    tables = [opened.decoder._arguments[layer].call[1]["position_embeddings"][0] for layer in (0, 1)]
    assert not torch.equal(*tables)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3", "phi3"])
def test_positions_reach_the_blocks(family: str, network: Opener) -> None:
    """The same state at every position gives the same output at each only where positions don't matter."""
    opened = network(family)
    block = opened.decoder.block(1)
    first, second = opened.states[0][:1, :1], opened.states[0][:1, 1:2]
    together = torch.cat([first, second, second.expand(1, 9, 32), first], dim=1)
    apart = torch.cat([first, second.expand(1, 9, 32), first, second], dim=1)
    assert not torch.allclose(block(together)[:, -1], block(apart)[:, -2], atol=1e-9)


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_block_is_read_when_asked_for_and_kept_where_there_is_room(
    blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that are asked for are kept, in as much memory as there is for them."""
    folder = models.save(models.model("llama"), tmp_path / "model")
    read: list[str] = []
    with open_checkpoint(folder) as checkpoint:
        tensor = checkpoint.tensor

        def recorded(name: str) -> torch.Tensor:
            read.append(name)
            return tensor(name)

        checkpoint.tensor = recorded  # type: ignore[method-assign]
        size = sum(tensor.nbytes for tensor in decoder_of(checkpoint).block(1).module.parameters())
        monkeypatch.setattr(decoders, "CACHED", blocks * size)
        read.clear()
        decoder = decoder_of(checkpoint)
        assert not any(".layers." in name for name in read), "a block was read before it was asked for"
        held = [parameter for blueprint in decoder._shell.blueprints for parameter in blueprint.parameters()]
        assert held
        assert all(parameter.is_meta for parameter in held)
        kept: list[int] = []
        for layer in (2, 1, 2, 1):
            read.clear()
            block = decoder.block(layer)
            assert {int(name.split(".layers.")[1].split(".")[0]) + 1 for name in read} == {layer} - set(kept)
            kept += [layer] if layer not in kept and len(kept) < blocks else []
            assert all(not parameter.is_meta for parameter in block.module.parameters())
            assert all(parameter.is_meta for parameter in held)


def test_what_is_done_to_a_copy_of_a_block_stays_with_it(network: Opener) -> None:
    opened = network("gpt2")
    block = opened.decoder.block(1)
    copied = block.copy()
    before = block(opened.states[0])
    for parameter in copied.trainable().values():
        parameter.zero_()
    assert torch.equal(opened.decoder.block(1)(opened.states[0]), before)


def _kept(called: list[object], module: object, *_: object) -> None:
    called.append(module)


def test_what_hangs_on_a_copy_of_a_block_hangs_on_nothing_else(network: Opener) -> None:
    opened = network("llama")
    block = opened.decoder.block(1)
    for copied in (block.copy(), block.replaced({})):
        called: list[object] = []
        for part in copied.module.modules():
            part.register_forward_hook(partial(_kept, called))
        before = block(opened.states[0])
        assert called == []
        assert torch.equal(copied(opened.states[0]), before)
        assert len(called) > 5
        copied.module.register_buffer("of its own", torch.ones(1))
        assert not [name for name, _ in block.module.named_buffers() if name == "of its own"]


def test_a_block_with_another_weight_shares_the_rest(network: Opener) -> None:
    block = network("gpt2").decoder.block(1)
    name = "mlp.c_fc.weight"
    other = block.replaced({name: torch.zeros_like(block.trainable()[name])})
    mine, theirs = block.trainable(), other.trainable()
    assert {key for key in mine if mine[key] is not theirs[key]} == {name}
    assert float(mine[name].abs().max()) > 0 == float(theirs[name].abs().max())


def test_a_block_asks_for_no_gradients_and_does_not_drop_out(network: Opener) -> None:
    opened = network("gpt2")
    block = opened.decoder.block(1)
    assert not any(parameter.requires_grad for parameter in block.module.parameters())
    assert not any(module.training for module in block.module.modules())
    assert torch.equal(block(opened.states[0]), block(opened.states[0]))


def test_a_block_takes_states_in_its_own_dtype(network: Opener) -> None:
    block = network("llama", dtype=torch.bfloat16).decoder.block(1)
    assert block.take(torch.zeros(1, 2, 32)).dtype is torch.bfloat16


def test_a_nanogpt_has_no_biases_to_train(nanogpt: Network) -> None:
    block = nanogpt.decoder.block(1)
    assert not any(writer.biased for writer in block.writers)
    assert all(parameter.any() for parameter in block.trainable().values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_low_bit_weights_stay_what_they_are_in_half_precision(network: Opener, family: str, dtype: torch.dtype) -> None:
    bits = Integer(ScaleLayout.GROUP, 8, 4, ZeroPoint.INTEGER)
    block = network(family, bits=bits, dtype=dtype).decoder.block(1)
    weights = dict(block.module.named_parameters())
    assert block.held
    for copied in (block.rounded(block.scales()), block.copy().rounded(block.copy().scales())):
        for name in block.held:
            torch.testing.assert_close(copied.module.get_parameter(name), weights[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_fault_in_a_low_bit_block_has_its_own_scales(network: Opener, dtype: torch.dtype) -> None:
    block = network("llama", bits=Ternary(ScaleLayout.TENSOR), dtype=dtype).decoder.block(1)
    faulty = damaged(block, FaultKind.ONE_BIT, heads=4, seed=5)
    again = faulty.rounded(faulty.scales())
    assert block.held
    for name in block.held:
        weight = faulty.module.get_parameter(name)
        torch.testing.assert_close(again.module.get_parameter(name), weight)
        assert not torch.allclose(weight.abs().max(), block.module.get_parameter(name).abs().max(), rtol=0.05)


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi"])
def test_a_changed_block_adds_to_its_maps_and_leaves_the_block_as_it_was(family: str, network: Opener) -> None:
    """A map's output moves by its input times the change, whichever way round the module keeps its matrix."""
    block = network(family).decoder.block(1)
    linear = block.writers[1]
    before = block.digest()
    change = torch.randn(linear.inputs + linear.biased, linear.outputs, dtype=torch.float64)
    changed = block.changed({linear.path: change})
    assert block.digest() == before
    given = torch.randn(5, linear.inputs, dtype=torch.float64)
    moved = changed.writers[1].module(given) - linear.module(given)
    wide = torch.cat([given, torch.ones(5, linear.biased, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(moved, wide @ change)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_passes_are_of_the_whole_network_its_head_among_it(family: str, network: Opener) -> None:
    """Blocks over all sequences and a read-out of all tokens are one pass each; of experts those count that are run."""
    opened = network(models.model(family), dtype=torch.float32)
    decoder, count = opened.decoder, len(opened.tokens)
    share, before = decoder.head_share, decoder.passes
    model = models.model(family)
    weights = sum(weight.numel() for weight in model.model.layers.parameters() if weight.dim() == 2)
    experts = sum(weight.numel() for weight in model.model.layers.parameters() if weight.dim() == 3)
    config = model.config
    run = config.num_experts_per_tok / config.num_local_experts if experts else 0
    head = model.lm_head.weight.numel()
    assert share == pytest.approx(head / (head + weights + run * experts))
    trained_states(decoder, opened.tokens, StateStore())
    assert decoder.passes - before == pytest.approx(count * (1 - share))
    decoder.work.read(opened.tokens.numel())
    assert decoder.passes - before == pytest.approx(count)
