"""AdamW end to end: what it gains, what is chosen on *select*, what is left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import end_to_end as module
from bench.end_to_end import EndToEnd, end_to_end
from peelaudit.errors import ConfigError, NonFiniteResult
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.references.solvers import redrawn
from peelaudit.network.decoder import Decoder
from peelaudit.network.lowbit.constraints import Ternary
from peelaudit.network.states import Rows, StateStore, TokenRows, trained_states
from tests.networks import Network, splits

Opener = Callable[..., Network]
ROWS = splits(96, 16, 12)
FAST = (1e-3, 1e-2)


def counting(decoder: Decoder, rows: Rows = ROWS) -> TokenRows:
    """Sequences that can be learned: each token is the one before it and three."""
    first = torch.randint(3, decoder.vocabulary, (rows.held_out.stop, 1), generator=torch.Generator().manual_seed(2))
    return TokenRows((first + 3 * torch.arange(12)) % decoder.vocabulary, rows)


def own(decoder: Decoder) -> Readout:
    return Readout("own", Unembedding.of(decoder))


def trained(decoder: Decoder, **options: Any) -> EndToEnd:
    data = counting(decoder)
    return end_to_end(decoder, decoder.embed(data.tokens), data, own(decoder), **{"learning_rates": FAST, **options})


def losses(decoder: Decoder, rows: slice) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[sequences] nats of the network as it is."""
    tokens = counting(decoder).tokens[rows]
    state = trained_states(decoder, tokens, StateStore(dtype=decoder.dtype))[-1]
    return own(decoder).losses(state, tokens, torch.arange(len(tokens)), "test")


def with_blocks(decoder: Decoder, found: EndToEnd) -> Decoder:
    for block in found.blocks:
        decoder = decoder.replacing(block)
    return decoder


def weights(decoder: Decoder) -> dict[str, Tensor]:
    return {
        f"{layer}.{name}": weight
        for layer in range(1, decoder.n_layers + 1)
        for name, weight in decoder.block(layer).module.named_parameters()
    }


def differing(first: Decoder, second: Decoder) -> set[str]:
    others = weights(second)
    return {name for name, weight in weights(first).items() if not torch.equal(weight, others[name])}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_network_with_a_redrawn_block_loses_less_after_it(family: str, network: Opener) -> None:
    decoder = network(family).decoder
    damaged = decoder.replacing(redrawn(decoder.block(1), 0))
    before = losses(damaged, ROWS.select).mean() / 11
    found = trained(damaged, learning_rates=FAST[1:])
    assert found.select < before - 0.1
    assert found.seconds > 0
    assert differing(damaged, with_blocks(damaged, found)) == set(weights(damaged))


def test_the_losses_are_those_of_the_blocks_that_are_given_back(network: Opener) -> None:
    decoder = network("gpt2").decoder
    found = trained(decoder, learning_rates=FAST[1:])
    after = with_blocks(decoder, found)
    assert found.held_out == pytest.approx(losses(after, ROWS.held_out), rel=1e-9)
    assert found.select == pytest.approx(losses(after, ROWS.select).mean() / 11, rel=1e-9)
    assert not any(weight.requires_grad for weight in weights(after).values())


def test_rate_and_epoch_are_chosen_on_select(network: Opener) -> None:
    decoder = network("llama").decoder
    found = trained(decoder, learning_rates=(1e-3, 1e-2, 1e-1))
    best = min(found.looks, key=lambda look: look.select)
    assert (found.select, found.learning_rate, found.epochs) == (best.select, best.learning_rate, best.epochs)
    assert [look.epochs for look in found.looks] == 3 * [1, 2, 3, 4, 5, 6, 7, 8]
    assert len({look.select for look in found.looks}) == 24


def test_an_earlier_look_is_kept_where_select_says_so(network: Opener) -> None:
    """Of noise only the frequencies can be learned; after that a few sequences are learned by heart."""
    opened = network("llama", rows=splits(12, 16, 12))
    data = TokenRows(opened.tokens, opened.rows)
    found = end_to_end(opened.decoder, opened.states[0], data, own(opened.decoder), steps=80, learning_rates=(1e-2,))
    best = min(found.looks, key=lambda look: look.select)
    assert best not in (found.looks[0], found.looks[-1])
    assert (found.select, found.epochs, found.learning_rate) == (best.select, best.epochs, best.learning_rate)


def test_the_start_is_kept_where_no_look_was_better(network: Opener) -> None:
    decoder = network("llama").decoder
    best = with_blocks(decoder, trained(decoder))
    data = counting(decoder)
    backwards = data.tokens.clone()
    backwards[ROWS.fit] = backwards[ROWS.fit].flip(1)
    found = end_to_end(
        best, best.embed(backwards), dataclasses.replace(data, tokens=backwards), own(best), learning_rates=(1e-2,)
    )
    assert (found.learning_rate, found.epochs) == (None, 0)
    assert len(found.looks) == 8
    assert found.select == pytest.approx(losses(best, ROWS.select).mean() / 11)
    assert not differing(best, with_blocks(best, found))


def test_one_block_alone_is_trained_for_so_many_steps(network: Opener) -> None:
    decoder = network("llama").decoder
    damaged = decoder.replacing(redrawn(decoder.block(2), 0))
    for layer in (1, 2):
        found = trained(damaged, layers=[layer], steps=24)
        assert [look.steps for look in found.looks] == 2 * [3, 6, 9, 12, 15, 18, 21, 24]
        assert [look.epochs for look in found.looks[:2]] == [1.5, 3]
        assert [block.layer for block in found.blocks] == [layer]
        assert found.select < losses(damaged, ROWS.select).mean() / 11
        changed = differing(damaged, with_blocks(damaged, found))
        assert changed == {name for name in weights(damaged) if name.startswith(f"{layer}.")}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_low_bit_blocks_stay_in_their_sets(dtype: torch.dtype, network: Opener) -> None:
    decoder = network("llama", bits=Ternary(), dtype=dtype).decoder
    found = trained(decoder, learning_rates=FAST[1:])
    assert found.learning_rate is not None
    for block in found.blocks:
        scales = block.scales()
        parameters = dict(block.module.named_parameters())
        assert len(block.held) == 7
        assert all(held.fits(parameters[name], scales[name]) for name, held in block.held.items())
    after = with_blocks(decoder, found)
    assert differing(decoder, after) >= {f"1.{name}" for name in decoder.block(1).held}
    assert found.held_out == pytest.approx(losses(after, ROWS.held_out), rel=1e-9)


def test_the_same_seed_gives_the_same_and_nothing_that_was_given_is_changed(network: Opener) -> None:
    decoder = network("gpt2").decoder
    before = {name: weight.clone() for name, weight in weights(decoder).items()}
    first, again, other = (trained(decoder, learning_rates=FAST[1:], seed=seed) for seed in (0, 0, 1))
    assert first.looks == again.looks != other.looks
    assert np.array_equal(first.held_out, again.held_out)
    assert all(torch.equal(before[name], weight) for name, weight in weights(decoder).items())
    assert not any(weight.requires_grad for weight in decoder.head.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_rate_starts_from_the_same_low_bit_network(dtype: torch.dtype, network: Opener) -> None:
    decoder = network("llama", bits=Ternary(), dtype=dtype).decoder
    decoder = decoder.replacing(decoder.block(1)).replacing(decoder.block(2))
    both = trained(decoder)
    alone = trained(decoder, learning_rates=FAST[1:])
    assert both.looks[8:] == alone.looks


def test_a_rate_that_goes_astray_ends_there(network: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = network("llama").decoder
    descend = module._descend

    def astray(*arguments: Any) -> Any:
        looks = descend(*arguments)
        yield next(looks)
        if arguments[1] == FAST[0]:
            raise NonFiniteResult("layer 1: hidden states became NaN or Inf")
        yield from looks

    monkeypatch.setattr(module, "_descend", astray)
    found = trained(decoder)
    assert [look.learning_rate for look in found.looks] == [FAST[0]] + 8 * [FAST[1]]


def test_weights_that_overflow_are_noticed(network: Opener) -> None:
    decoder = network("llama", dtype=torch.float32).decoder
    found = trained(decoder, learning_rates=(1e30, 1e-2))
    assert {look.learning_rate for look in found.looks} == {1e-2}


@pytest.mark.parametrize("layers", [[], [0], [1, 3]])
def test_layers_that_are_not_there_are_refused(layers: list[int], network: Opener) -> None:
    with pytest.raises(ConfigError, match="take some of 1 to 2"):
        trained(network("llama").decoder, layers=layers)


def test_an_epoch_has_each_sequence_of_fit_once() -> None:
    steps = [chosen.tolist() for chosen in islice(module._minibatches(slice(4, 20), 6, 0), 6)]
    for epoch in (steps[:3], steps[3:]):
        assert [len(chosen) for chosen in epoch] == [6, 6, 4]
        assert sorted(index for chosen in epoch for index in chosen) == list(range(4, 20))
    assert steps[:3] != steps[3:]
