"""AdamW end to end, the rival of a closed-form method: weights of the blocks trained on the cross-entropy itself.

Every weight of the blocks is trained, on *fit*, under a frozen read-out; the embedding and the head stay. Three
learning rates, each from the network's own weights; *select* is looked at after each epoch, and what was best there is
judged on *held-out*. The rates are constant: training may stop at any look, so none is the end of a schedule. Low-bit
matrices are trained straight-through, and judged as they round (`peelaudit.method.references.adam`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import ConfigError, NonFiniteResult
from peelaudit.method.readouts.readout import Readout
from peelaudit.method.references.adam import Latent
from peelaudit.network.block import Block
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import TokenRows, apply_block

__all__ = ["EndToEnd", "Look", "end_to_end"]

LEARNING_RATES = (1e-4, 3e-4, 1e-3)
BETAS = (0.9, 0.95)
BATCH_TOKENS = 1024
LOOKS = 8
"""Looks at *select* that a learning rate has: one after each epoch, or after each eighth of the steps."""


@dataclass(frozen=True, slots=True)
class Look:
    """What *select* said at one point: its loss in nats/token. `epochs` is how often *fit* had been gone through."""

    learning_rate: float
    steps: int
    epochs: float
    select: float


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """The best network on *select*, of all looks and the start.

    Attributes:
        blocks: the trained ones, in their low-bit sets where they had any.
        held_out: [sequences] nats, summed over each one's positions - 1 predictions.
        select: loss in nats/token.
        learning_rate: that it was trained with, None where the start was best.
        epochs: how often it has gone through *fit*.
        seconds: CPU seconds of all learning rates together, looks included.
        looks: at every learning rate, in order; fewer at one whose loss became NaN or Inf.
    """

    blocks: tuple[Block, ...]
    held_out: NDArray[np.float64]
    select: float
    learning_rate: float | None
    epochs: float
    seconds: float
    looks: tuple[Look, ...]


def end_to_end(
    decoder: Decoder,
    embedded: Tensor,
    data: TokenRows,
    readout: Readout,
    *,
    layers: Sequence[int] | None = None,
    steps: int | None = None,
    learning_rates: Sequence[float] = LEARNING_RATES,
    seed: int = 0,
) -> EndToEnd:
    """Train the blocks of a network on the next-token loss, and judge the best on *held-out*.

    Args:
        decoder: the network to start from.
        embedded: h_0, [sequences, positions, d_model].
        data: tokens and splits.
        readout: frozen; what losses are taken under.
        layers: 1 … L, those whose blocks are trained; None for all.
        steps: updates at each learning rate; None for as many as make eight epochs.
        learning_rates: of AdamW, without weight decay.
        seed: of the minibatches, the same at every learning rate.

    Raises:
        ConfigError: there is no such layer, or none is asked for.
        NonFiniteResult: if the network at the start has a loss or a state that is NaN or Inf.
    """
    begun = time.process_time()
    network = _Network(decoder, embedded, data, readout, _trained_layers(decoder, layers))
    best, least, chosen = network.start, network.loss(network.start), None
    looks: list[Look] = []
    for learning_rate in learning_rates:
        try:
            for look, blocks in _descend(network, learning_rate, steps, seed):
                looks.append(look)
                if look.select < least:
                    best, least, chosen = blocks, look.select, look
        except NonFiniteResult:
            continue
    seconds = time.process_time() - begun
    return EndToEnd(
        blocks=tuple(block for block in best if block.layer in network.trained),
        held_out=network.losses(best, data.rows.held_out),
        select=least,
        learning_rate=None if chosen is None else chosen.learning_rate,
        epochs=0.0 if chosen is None else chosen.epochs,
        seconds=seconds,
        looks=tuple(looks),
    )


def _trained_layers(decoder: Decoder, layers: Sequence[int] | None) -> frozenset[int]:
    every = range(1, decoder.n_layers + 1)
    trained = frozenset(every if layers is None else layers)
    if not trained or not trained <= set(every):
        raise ConfigError(f"layers {sorted(trained)} can't be trained: take some of 1 to {decoder.n_layers}")
    return trained


class _Network:
    """The part of a network that training moves: the blocks from the lowest trained one on, and what they are given.

    Attributes:
        trained: the layers whose blocks are trained.
        start: those blocks as they are, the frozen ones among them too.
        data: tokens and splits.
    """

    def __init__(
        self, decoder: Decoder, embedded: Tensor, data: TokenRows, readout: Readout, trained: frozenset[int]
    ) -> None:
        self._place = {"device": decoder.device, "dtype": decoder.dtype}
        self._readout, self.data, self.trained = readout, data, trained
        first = min(trained)
        self._inputs = self._through([decoder.block(layer) for layer in range(1, first)], embedded)
        self.start = [decoder.block(layer) for layer in range(first, decoder.n_layers + 1)]

    def _through(self, blocks: Sequence[Block], states: Tensor) -> Tensor:
        for block in blocks:
            output = torch.empty_like(states)
            states = apply_block(block, states, output, what=f"layer {block.layer}", **self._place)  # type: ignore[arg-type]
        return states

    def losses(self, blocks: Sequence[Block], rows: slice) -> NDArray[np.float64]:
        """[sequences] nats of a split, with these blocks in the place of the start's."""
        final = self._through(blocks, self._inputs[rows])
        return self._readout.losses(final, self.data.tokens[rows], torch.arange(len(final)), "AdamW end to end")

    def loss(self, blocks: Sequence[Block]) -> float:
        """nats/token on *select*."""
        return float(self.losses(blocks, self.data.rows.select).mean()) / (self.data.tokens.shape[1] - 1)

    def backward(self, blocks: Sequence[Block], latents: dict[int, Latent], chosen: Tensor) -> None:
        """Leave the gradient of the mean loss of some sequences, [n] their indices, at the latent weights.

        Raises:
            NonFiniteResult: if a gradient at the final state is NaN or Inf.
        """
        tokens = self.data.tokens[chosen]
        with torch.enable_grad():
            hidden = blocks[0].take(self._inputs[chosen])
            for block in blocks:
                latent = latents.get(block.layer)
                hidden = block(hidden, None if latent is None else latent.weights() or None)
        gradient = self._readout.gradient(hidden, tokens) / (tokens.shape[0] * (tokens.shape[1] - 1))
        if not bool(torch.isfinite(gradient).all()):
            raise NonFiniteResult("the gradient of AdamW end to end became NaN or Inf")
        hidden.backward(gradient.to(hidden))


def _descend(
    network: _Network, learning_rate: float, steps: int | None, seed: int
) -> Iterator[tuple[Look, list[Block]]]:
    """Train copies of the start's blocks.

    Yields:
        Each look at *select*, and copies of the blocks as they were then.

    Raises:
        NonFiniteResult: if a loss, a state or a gradient becomes NaN or Inf.
    """
    blocks = [block.copy() for block in network.start]
    latents = {block.layer: Latent(block) for block in blocks if block.layer in network.trained}
    parameters = [parameter for latent in latents.values() for parameter in latent.parameters]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=BETAS, weight_decay=0.0)
    size = max(1, BATCH_TOKENS // network.data.tokens.shape[1])
    fit = network.data.rows.fit
    epoch = -(-(fit.stop - fit.start) // size)
    total = LOOKS * epoch if steps is None else steps
    stops = {round(total * look / LOOKS) for look in range(1, LOOKS + 1)}
    for step, chosen in enumerate(islice(_minibatches(fit, size, seed), total), start=1):
        optimizer.zero_grad(set_to_none=True)
        network.backward(blocks, latents, chosen)
        optimizer.step()
        if step in stops:
            kept = [block if (known := latents.get(block.layer)) is None else known.rounded() for block in blocks]
            yield Look(learning_rate, step, step / epoch, network.loss(kept)), kept


def _minibatches(rows: slice, size: int, seed: int) -> Iterator[Tensor]:
    """Indices of up to `size` sequences, without end: whole epochs of them, each in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    for _ in count():
        order = rows.start + torch.randperm(rows.stop - rows.start, generator=generator)
        yield from torch.split(order, size)
