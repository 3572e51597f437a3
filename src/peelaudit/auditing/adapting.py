"""What refining blocks changes, as an adapter of low rank."""

from __future__ import annotations

import torch
from torch import Tensor

from peelaudit.auditing.mending import Bench, Cure
from peelaudit.errors import ConfigError
from peelaudit.method.refinement.low_rank import input_moments, low_rank
from peelaudit.network.block import Block
from peelaudit.network.states import TokenRows, apply_block, embedded

__all__ = ["adapter_factors", "check_adaptable"]

Factors = dict[str, tuple[Tensor, Tensor]]
"""A, [rank, inputs], and B, [outputs, rank], of each module by its name in the network."""


def check_adaptable(bench: Bench) -> None:
    """Raise ConfigError where an adapter can't be merged into the checkpoint's weights, to be read back."""
    checkpoint, path = bench.audit.checkpoint, bench.audit.checkpoint.info.path
    if checkpoint.packed or not checkpoint.info.format.startswith("huggingface/") or bench.audit.config.adapter:
        raise ConfigError(f"--lora: {path} isn't a directory of floats that an adapter of peft is for")
    if bench.decoder.low_bit:
        raise ConfigError(f"--lora: the blocks of {path} are low-bit, which no adapter keeps them; say --bits float")
    if any(bench.decoder.block(layer).experts for layer in range(1, bench.decoder.n_layers + 1)):
        raise ConfigError(f"--lora: {path} has experts, for which no adapter is written")


def adapter_factors(bench: Bench, cure: Cure, rank: int) -> Factors:
    """The change of each map by one of low rank, weighted by what the map is given over *fit*, the lowest block first:
    each in the network that has the adapters below it. A change of a bias is left out.
    """
    decoder, data = bench.decoder, TokenRows.of(bench.calibration)
    state = embedded(decoder, data.tokens[data.rows.fit], bench.store)
    place = {"device": decoder.device, "dtype": decoder.dtype}
    found: Factors = {}
    for layer in range(1, decoder.n_layers + 1):
        block = decoder.block(layer)
        if layer in cure.layers:
            new = cure.decoder.block(layer)
            changes = _changes(block, new)
            with input_moments(new, changes) as moments:
                output = bench.store.empty(*state.shape)
                apply_block(new, state, output, what=f"layer {layer}", **place)  # type: ignore[arg-type]
            factors = {path: low_rank(change, moments[path], rank) for path, change in changes.items()}
            block = _adapted(block, factors)
            prefix = f"{decoder.family.blocks}.{layer - 1}."
            found |= {prefix + path: (left.T, right.T) for path, (left, right) in factors.items()}
        apply_block(block, state, state, what=f"layer {layer}", **place)  # type: ignore[arg-type]
    return found


def _changes(old: Block, new: Block) -> dict[str, Tensor]:
    """[inputs, outputs] of each map that is another one."""
    before, after = old.linears(), new.linears()
    changes = {path: one.turned(after[path].weight) - one.turned(one.weight) for path, one in before.items()}
    return {path: change for path, change in changes.items() if bool(change.any())}


def _adapted(block: Block, factors: Factors) -> Block:
    maps, changes = block.linears(), {}
    for path, (left, right) in factors.items():
        change = left @ right
        changes[path] = torch.cat([change, change.new_zeros(1, change.shape[1])]) if maps[path].biased else change
    return block.changed(changes)
