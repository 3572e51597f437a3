"""What a block's residual-writing matrices see: their inputs, as the features of a linear regression.

The change of a block's output is linear in the change of its MLP's writer, exactly, and in that of both writers where
attention and MLP run side by side. Where the MLP comes after the attention, a change of the attention's writer also
moves the MLP's features. Solving both there with frozen features was measured to be worse than the MLP alone (held-out
normalised error 0.60 against 0.42 for the schedule `final` on a 5-layer Llama), so `trainable_writers` leaves it out.

A norm between the writer and the residual stream (Gemma 3, OLMo 2) is linearised: its scale per token is frozen, its
gain per channel divided out. The solution is then a step in the right direction, and is judged by the real block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peelaudit.network.block import Block
from peelaudit.network.linear import tapped
from peelaudit.network.lowbit.rounding import Part

__all__ = [
    "Observation",
    "feature_parts",
    "observe",
    "split_change",
    "trainable_writers",
    "undo_gains",
    "writer_weights",
]


@dataclass(frozen=True, slots=True)
class Observation:
    """One pass of a block: `output` [rows, d_model] and the concatenated `features` [rows, features]."""

    output: Tensor
    features: Tensor


class _Seen:
    """What a writer and the norm behind it were given, and what the norm made of it, in one call of the block."""

    def __init__(self, norm: nn.Module | None, factor: float) -> None:
        self._factor = factor
        self.input = torch.empty(0)
        self._norm_call: tuple[Tensor, Tensor] | None = None
        self._norm = norm

    def keep_input(self, given: Tensor, _: Tensor) -> None:
        """A tap for the writer."""
        self.input = given.reshape(-1, given.shape[-1])

    def keep_norm(self, given: Tensor, made: Tensor) -> None:
        """A tap for the norm."""
        self._norm_call = (given.reshape(-1, given.shape[-1]), made.reshape(-1, made.shape[-1]))

    def features(self) -> Tensor:
        """The writer's input, times the norm's frozen scale of each token, and what its product is multiplied by."""
        given = self.input if self._factor == 1 else self._factor * self.input
        if self._norm is None or self._norm_call is None:
            return given
        product, normed = self._norm_call
        unscaled = (product * norm_gain(self._norm, product)).norm(dim=-1, keepdim=True)
        least = torch.finfo(product.dtype).tiny
        scale: Tensor = normed.norm(dim=-1, keepdim=True) / unscaled.clamp_min(least)
        return given * scale


def norm_gain(norm: nn.Module, like: Tensor) -> Tensor:
    """The gain per channel, [d_model], of a norm without centring: what it makes of a vector of ones."""
    return norm(torch.ones(1, like.shape[-1], dtype=like.dtype, device=like.device))[0]  # type: ignore[no-any-return]


@torch.no_grad()
def observe(block: Block, hidden: Tensor, writers: tuple[int, ...]) -> Observation:
    """Run the block on [sequences, positions, d_model] and keep what the given writers saw.

    A column of the factor, 1 in most families, stands after the features of a writer that has a bias.
    """
    seen = {index: _Seen(block.norms[index], block.factors[index]) for index in writers}
    inputs = [(block.writers[index].module, one.keep_input) for index, one in seen.items()]
    norms = [(norm, one.keep_norm) for index, one in seen.items() if (norm := block.norms[index]) is not None]
    with tapped(inputs), tapped(norms):
        output = block(hidden)
    features = []
    for index, one in seen.items():
        part = one.features()
        features.append(part)
        if block.writers[index].biased:
            features.append(torch.full_like(part[:, :1], block.factors[index]))
    return Observation(output.reshape(-1, output.shape[-1]), torch.cat(features, dim=-1))


@torch.no_grad()
def trainable_writers(block: Block, hidden: Tensor) -> tuple[int, ...]:
    """Which writers a regression may change together: both where the MLP's features don't depend on the attention's.

    Found by running the block on `hidden`, [sequences, positions, d_model], with and without something added to the
    attention's product. Not with the product left out: it may be zero, and still move the features once it is changed.
    """
    plain = observe(block, hidden, (1,)).features
    # A ramp, for a norm that centres would take out a constant, and one that doesn't a multiple of the state.
    ramp = torch.linspace(-1, 1, hidden.shape[-1], device=hidden.device) * (1 + hidden.abs().float().mean())
    with tapped([(block.writers[0].module, lambda _, made: made + ramp.to(made.dtype))]):
        shifted = observe(block, hidden, (1,)).features
    return (0, 1) if torch.equal(plain, shifted) else (1,)


def undo_gains(block: Block, writers: tuple[int, ...], change: Tensor) -> Tensor:
    """The change of the writers themselves, [features, d_model], of a solution that counts what is behind the norms.

    A channel that a norm shuts gets no change.
    """
    parts = []
    for index, rows in _rows(block, writers):
        norm, part = block.norms[index], change[rows]
        if norm is not None:
            gain = norm_gain(norm, change)
            usable = gain.abs() > 1e-3 * gain.abs().max()
            part = part * torch.where(usable, 1 / torch.where(usable, gain, 1.0), 0.0)
        parts.append(part)
    return torch.cat(parts)


def split_change(block: Block, writers: tuple[int, ...], change: Tensor) -> dict[str, Tensor]:
    """A change of the writers, [features, d_model], by the writers' paths, as `Block.changed` takes it."""
    return {block.writers[index].path: change[rows] for index, rows in _rows(block, writers)}


def _rows(block: Block, writers: tuple[int, ...]) -> Iterator[tuple[int, slice]]:
    """Each writer with its features: its inputs, and a one where it has a bias."""
    start = 0
    for index in writers:
        stop = start + block.writers[index].inputs + block.writers[index].biased
        yield index, slice(start, stop)
        start = stop


def feature_parts(block: Block, writers: tuple[int, ...]) -> tuple[Part, ...]:
    """The features by what holds the weights that they enter by: a bias is never held."""
    parts = []
    for index, rows in _rows(block, writers):
        held, biased = block.writer_held(index), block.writers[index].biased
        parts.append(Part(slice(rows.start, rows.stop - biased), None if held is None else held.constraint))
        if biased:
            parts.append(Part(slice(rows.stop - 1, rows.stop), None))
    return tuple(parts)


def writer_weights(block: Block, writers: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The writers' weights and biases as one matrix, [features, d_model]."""
    parts = []
    for index in writers:
        writer = block.writers[index]
        parts.append(writer.turned(writer.weight))
        if writer.biased and writer.bias is not None:
            parts.append(writer.bias.unsqueeze(0))
    return torch.cat(parts).to(dtype)
