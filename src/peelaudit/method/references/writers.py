"""What a block's residual-writing matrices see: their inputs, as the features of a linear regression.

The change of a block's output is linear in the change of its MLP's writer, exactly, and in that of both writers where
attention and MLP run side by side. Where the MLP comes after the attention, a change of the attention's writer also
moves the MLP's features. Solving both there with frozen features was measured to be worse than the MLP alone (held-out
normalised error 0.60 against 0.42 for the schedule `final` on a 5-layer Llama), so `trainable_writers` leaves it out.

A mixture's writers are its experts' down projections and those of an MLP beside them. Each sees the tokens that the
trained router gives to it, times the router's weight; the router stays as it is.

A norm between the writer and the residual stream (Gemma 3, OLMo 2; behind all experts in AFMoE) is linearised: its
scale per token is frozen, its gain per channel divided out. The solution is then a step in the right direction, and is
judged by the real block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peelaudit.network.block import Block
from peelaudit.network.linear import Tap, tapped
from peelaudit.network.lowbit.rounding import Part

__all__ = [
    "Features",
    "Observation",
    "feature_parts",
    "observe",
    "split_change",
    "trainable_writers",
    "undo_gains",
    "writer_groups",
    "writer_weights",
]


@dataclass(frozen=True, slots=True)
class Features:
    """What some writers saw, `values` [rows, features]. `rows` are the tokens that go through them, None for all."""

    values: Tensor
    rows: Tensor | None = None

    def of(self, tokens: Tensor) -> Tensor:
        """The rows of [tokens, …] that these are."""
        return tokens if self.rows is None else tokens[self.rows]


@dataclass(frozen=True, slots=True)
class Observation:
    """One pass of a block: `output` [rows, d_model] and the features of the writers, those that all tokens go through
    together and each expert's by itself.
    """

    output: Tensor
    groups: tuple[Features, ...]

    @property
    def features(self) -> Tensor:
        """[rows, features], of a block without experts."""
        (group,) = self.groups
        return group.values


class _Seen:
    """What a writer, its gate and the norm behind it were given, and what the norm made of it, in one call of the
    block.
    """

    def __init__(self, block: Block, index: int) -> None:
        self.biased, self._factor = block.writers[index].biased, block.factors[index]
        self._inputs = block.writers[index].inputs
        self._writer, self._norm, self._gate = block.writers[index].module, block.norms[index], block.gates[index]
        self._input: Tensor | None = None
        self._norm_call: tuple[Tensor, Tensor] | None = None
        self._opened: Tensor | None = None

    def taps(self) -> Iterator[tuple[nn.Module, Tap]]:
        """What it is to be shown."""
        yield self._writer, self._keep_input
        if self._norm is not None:
            yield self._norm, self._keep_norm
        if self._gate is not None:
            yield self._gate, self._keep_gate

    def _keep_input(self, given: Tensor, _: Tensor) -> None:
        self._input = given.reshape(-1, given.shape[-1])

    def _keep_norm(self, given: Tensor, made: Tensor) -> None:
        self._norm_call = (given.reshape(-1, given.shape[-1]), made.reshape(-1, made.shape[-1]))

    def _keep_gate(self, _: Tensor, made: Tensor) -> None:
        self._opened = made.reshape(-1, 1).sigmoid()

    def features(self, weights: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The writer's input, times the norm's frozen scale of each token, and what its product is multiplied by; a
        column of that alone stands last for a bias.

        Args:
            weights: of the rows in a mixture, [rows, 1]; a one elsewhere.
            tokens: which the rows are, None for all.
        """
        given = weights.new_empty(0, self._inputs) if self._input is None else self._input
        opened = weights if self._opened is None else weights * self._opened
        multiple = (opened if self._factor == 1 else self._factor * opened).to(given).expand(len(given), 1)
        scale = self._norm_scale()
        features = given * multiple * (scale if tokens is None or isinstance(scale, float) else scale[tokens])
        return torch.cat([features, multiple], dim=-1) if self.biased else features

    def _norm_scale(self) -> Tensor | float:
        if self._norm is None or self._norm_call is None:
            return 1.0
        product, normed = self._norm_call
        unscaled = (product * norm_gain(self._norm, product)).norm(dim=-1, keepdim=True)
        scale: Tensor = normed.norm(dim=-1, keepdim=True) / unscaled.clamp_min(torch.finfo(product.dtype).tiny)
        return scale


def norm_gain(norm: nn.Module, like: Tensor) -> Tensor:
    """The gain per channel, [d_model], of a norm without centring: what it makes of a vector of ones."""
    return norm(torch.ones(1, like.shape[-1], dtype=like.dtype, device=like.device))[0]  # type: ignore[no-any-return]


@torch.no_grad()
def observe(block: Block, hidden: Tensor, writers: tuple[int, ...]) -> Observation:
    """Run the block on [sequences, positions, d_model] and keep what the given writers saw.

    A column of the factor, 1 in most families, stands after the features of a writer that has a bias.

    Args:
        block: any.
        hidden: its input.
        writers: indices of its writers, experts' last.
    """
    seen = {index: _Seen(block, index) for index in writers}
    with tapped([tap for one in seen.values() for tap in one.taps()]), block.watched() as routes:
        output = block(hidden)
    one = torch.ones(1, 1, device=output.device)
    groups = []
    for first, *others in writer_groups(block, writers):
        number = block.numbers[first]
        tokens, weights = (None, one) if number is None else routes.of(number)
        values = [seen[index].features(weights, tokens) for index in (first, *others)]
        groups.append(Features(torch.cat(values, dim=-1), tokens))
    return Observation(output.reshape(-1, output.shape[-1]), tuple(groups))


def writer_groups(block: Block, writers: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The writers by what is regressed together: those that all tokens go through, and each expert's by itself."""
    shared = tuple(index for index in writers if block.numbers[index] is None)
    alone = ((index,) for index in writers if block.numbers[index] is not None)
    return (*([shared] if shared else []), *alone)


@torch.no_grad()
def trainable_writers(block: Block, hidden: Tensor) -> tuple[int, ...]:
    """Which writers a regression may change together, experts' last: all where the MLP's features don't depend on the
    attention's product, else the MLP's.

    Found by running the block on `hidden`, [sequences, positions, d_model], with and without something added to the
    attention's product. Not with the product left out: it may be zero, and still move the features once it is changed.
    """
    mlp = tuple(sorted(range(1, len(block.writers)), key=lambda index: block.numbers[index] is not None))
    plain = observe(block, hidden, mlp).groups
    # A ramp, for a norm that centres would take out a constant, and one that doesn't a multiple of the state.
    ramp = torch.linspace(-1, 1, hidden.shape[-1], device=hidden.device) * (1 + hidden.abs().float().mean())
    with tapped([(block.writers[0].module, lambda _, made: made + ramp.to(made.dtype))]):
        shifted = observe(block, hidden, mlp).groups
    alike = all(torch.equal(one.values, other.values) for one, other in zip(plain, shifted, strict=True))
    return (0, *mlp) if alike else mlp


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
