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
from typing import Any, cast

import torch
from torch import Tensor, nn

from peelaudit.network.block import Block
from peelaudit.network.lowbit.rounding import Part

__all__ = [
    "Observation",
    "WriterChange",
    "apply_change",
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


@dataclass(frozen=True, slots=True)
class WriterChange:
    """The change of one writer: `weight` [inputs, d_model], `bias` [d_model] or None where it has none."""

    writer: int
    weight: Tensor
    bias: Tensor | None


class _Tap:
    """Keeps the input of a writer, and the input and output of the norm behind it, for one call of the block."""

    def __init__(self, writer: nn.Module, norm: nn.Module | None) -> None:
        self.input = torch.empty(0)
        self._norm_call: tuple[Tensor, Tensor] | None = None
        self._norm = norm
        self.handles = [writer.register_forward_pre_hook(self._keep_input)]
        if norm is not None:
            self.handles.append(norm.register_forward_hook(self._keep_norm))

    def _keep_input(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.input = args[0].reshape(-1, args[0].shape[-1])

    def _keep_norm(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._norm_call = (args[0].reshape(-1, args[0].shape[-1]), output.reshape(-1, output.shape[-1]))

    def features(self) -> Tensor:
        """The writer's input, times the norm's frozen scale of each token."""
        if self._norm is None or self._norm_call is None:
            return self.input
        product, normed = self._norm_call
        unscaled = (product * norm_gain(self._norm, product)).norm(dim=-1, keepdim=True)
        least = torch.finfo(product.dtype).tiny
        scale: Tensor = normed.norm(dim=-1, keepdim=True) / unscaled.clamp_min(least)
        return self.input * scale


def norm_gain(norm: nn.Module, like: Tensor) -> Tensor:
    """The gain per channel, [d_model], of a norm without centring: what it makes of a vector of ones."""
    return norm(torch.ones(1, like.shape[-1], dtype=like.dtype, device=like.device))[0]  # type: ignore[no-any-return]


@torch.no_grad()
def observe(block: Block, hidden: Tensor, writers: tuple[int, ...]) -> Observation:
    """Run the block on [sequences, positions, d_model] and keep what the given writers saw.

    A column of ones stands after the features of a writer that has a bias.
    """
    taps = [_Tap(block.writers[index], block.norms[index]) for index in writers]
    try:
        output = block(hidden)
        features = []
        for index, tap in zip(writers, taps, strict=True):
            part = tap.features()
            features.append(part)
            if block.biased[index]:
                features.append(torch.ones_like(part[:, :1]))
    finally:
        for tap in taps:
            for handle in tap.handles:
                handle.remove()
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
    moved = block.writers[0].register_forward_hook(lambda _module, _args, output: output + ramp.to(output.dtype))
    try:
        shifted = observe(block, hidden, (1,)).features
    finally:
        moved.remove()
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


def split_change(block: Block, writers: tuple[int, ...], change: Tensor) -> tuple[WriterChange, ...]:
    """Cut a change of the writers, [features, d_model], into one for each."""
    parts = []
    for index, rows in _rows(block, writers):
        weights = slice(rows.start, rows.stop - block.biased[index])
        bias = change[weights.stop] if block.biased[index] else None
        parts.append(WriterChange(index, change[weights], bias))
    return tuple(parts)


def _rows(block: Block, writers: tuple[int, ...]) -> Iterator[tuple[int, slice]]:
    """Each writer with its features: its inputs, and a one where it has a bias."""
    start = 0
    for index in writers:
        stop = start + writer_inputs(block.writers[index]) + block.biased[index]
        yield index, slice(start, stop)
        start = stop


def feature_parts(block: Block, writers: tuple[int, ...]) -> tuple[Part, ...]:
    """The features by what holds the weights that they enter by: a bias is never held."""
    parts = []
    for index, rows in _rows(block, writers):
        held, biased = block.writer_held(index), block.biased[index]
        parts.append(Part(slice(rows.start, rows.stop - biased), None if held is None else held.constraint))
        if biased:
            parts.append(Part(slice(rows.stop - 1, rows.stop), None))
    return tuple(parts)


def writer_weights(block: Block, writers: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The writers' weights and biases as one matrix, [features, d_model]."""
    parts = []
    for index in writers:
        writer: Any = block.writers[index]
        parts.append(writer.weight.T if isinstance(writer, nn.Linear) else writer.weight)
        if block.biased[index]:
            parts.append(writer.bias.unsqueeze(0))
    return torch.cat(parts).to(dtype)


def writer_inputs(writer: nn.Module) -> int:
    """How many inputs a writer has: nn.Linear keeps [out, in], transformers' Conv1D [in, out]."""
    weight = cast("Tensor", writer.weight)
    return int(weight.shape[1] if isinstance(writer, nn.Linear) else weight.shape[0])


@torch.no_grad()
def apply_change(block: Block, changes: tuple[WriterChange, ...]) -> Block:
    """A copy of the block with the changes added to its writers."""
    changed = block.copy()
    for change in changes:
        writer: Any = changed.writers[change.writer]
        weight = change.weight.T if isinstance(writer, nn.Linear) else change.weight
        writer.weight = nn.Parameter((writer.weight + weight).to(writer.weight.dtype), requires_grad=False)
        if change.bias is not None:
            writer.bias = nn.Parameter((writer.bias + change.bias).to(writer.bias.dtype), requires_grad=False)
    return changed
