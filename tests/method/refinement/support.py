"""A tiny network as diagnosis sees it, and its losses by a plain run."""

from __future__ import annotations

import numpy as np
import torch

from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.refinement.downstream import Downstream
from peelaudit.network.block import Block
from peelaudit.network.states import StateStore, TokenRows
from tests.networks import Network


def downstream(network: Network) -> Downstream:
    data = TokenRows(network.tokens, network.rows)
    readout = Readout("own", Unembedding.of(network.decoder))
    return Downstream(network.decoder, data, readout, StateStore(dtype=network.states[0].dtype))


def own_losses(network: Network) -> np.ndarray:
    rows = slice(0, len(network.tokens))
    return downstream(network).losses(network.decoder.n_layers, network.states[-1].clone(), rows, "the network")


def loss_with(network: Network, block: Block, rows: slice) -> np.ndarray:
    """The network's losses with a block in the place of its own, by a plain run through all blocks."""
    decoder = network.decoder.replacing(block)
    state = decoder.embed(network.tokens[rows])
    for layer in range(1, decoder.n_layers + 1):
        state = decoder.block(layer)(state)
    return Readout("own", Unembedding.of(decoder)).losses(
        state, network.tokens[rows], torch.arange(len(state)), "the network"
    )
