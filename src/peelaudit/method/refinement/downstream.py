"""The network above a block: its losses and its gradients, one real block read at a time.

A block's candidate output goes up through the blocks above it; the loss's gradient comes down through them. Going down,
a block is run again on the state it had, so that no more than one block's activations are held at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelaudit.errors import NonFiniteResult
from peelaudit.method.linalg.forward import jvp
from peelaudit.method.linalg.kronecker import Factors
from peelaudit.method.linalg.moments import accumulation_dtype
from peelaudit.method.linalg.precision import wide_product
from peelaudit.method.linalg.spectrum import leading
from peelaudit.method.readouts.readout import Readout
from peelaudit.method.readouts.shortlist import Nearby, held_words
from peelaudit.network.block import Block
from peelaudit.network.decoder import Decoder
from peelaudit.network.linear import LinearMap, tapped
from peelaudit.network.memory import batches
from peelaudit.network.states import StateStore, TokenRows, apply_block

__all__ = ["BlockSlopes", "Downstream"]

LEADING = 1 / 16
"""The share of a matrix' singular directions that counts as leading; the others are its bulk."""


class BlockSlopes(NamedTuple):
    """Derivatives by the log of a scale, [sequences], in nats summed over a sequence's predictions.

    Attributes:
        scale: of all the block's matrices.
        bulk: of what is in them beside their leading singular directions.
    """

    scale: NDArray[np.float64]
    bulk: NDArray[np.float64]


class Downstream:
    """Runs states up, and gradients down, through a decoder's blocks.

    Attributes:
        store: where states and gradients go.

    Args:
        decoder: where the blocks come from.
        data: the tokens and the splits.
        readout: of the network.
        store: the audit's.
    """

    def __init__(self, decoder: Decoder, data: TokenRows, readout: Readout, store: StateStore) -> None:
        self.decoder, self.data, self.store = decoder, data, store
        self._readout = readout
        self._nearby: dict[tuple[int, int, int | None], Nearby | None] = {}

    def apply(self, block: Block, state: Tensor, what: str, *, into: Tensor | None = None) -> Tensor:
        """The block's output for [sequences, positions, d_model], in a new state or `into` that one.

        Raises:
            NonFiniteResult: naming `what`.
        """
        output = self.store.empty(*state.shape) if into is None else into
        return apply_block(block, state, output, device=self.decoder.device, dtype=self.decoder.dtype, what=what)

    def losses(self, layer: int, state: Tensor, rows: slice, what: str) -> NDArray[np.float64]:
        """[sequences] nats of the sequences `rows`, whose states after block `layer` are `state`, which is overwritten.

        Raises:
            NonFiniteResult: naming `what`.
        """
        for above in range(layer + 1, self.decoder.n_layers + 1):
            self.apply(self.decoder.block(above), state, what, into=state)
        return self._readout.losses(state, self.data.targets(rows), torch.arange(len(state)), what)

    def nearby(self, final: Tensor, rows: slice) -> Nearby | None:
        """What tells losses near the last states of the sequences `rows` in the network as trained, by the words of
        *fit* and *select*, made once; None where that saves little.

        Args:
            final: these states, [sequences, positions, d_model].
            rows: the sequences.
        """
        data, key = self.data, (rows.start, rows.stop, rows.step)
        if key not in self._nearby:
            words = held_words(data.targets(slice(0, data.rows.select.stop)))
            saves = Nearby.saves(self._readout, words)
            made = Nearby(self._readout, final, data.targets(rows), words, self.store) if saves else None
            self._nearby[key] = made
        return self._nearby[key]

    def rise(self, layer: int, state: Tensor, what: str) -> list[Tensor]:
        """The states after blocks `layer` … L, the first as given. Raises NonFiniteResult naming `what`."""
        states = [state]
        for above in range(layer + 1, self.decoder.n_layers + 1):
            states.append(self.apply(self.decoder.block(above), states[-1], what))
        return states

    def top(self, final: Tensor, rows: slice) -> Tensor:
        """The gradient at h_L of the summed loss of the sequences `rows`, whose last states are `final`."""
        gradient, targets = self.store.empty(*final.shape), self.data.targets(rows)
        for part in batches(slice(0, len(final)), targets.shape[1], self.decoder.memory.tokens):
            gradient[part] = self._readout.gradient(final[part], targets[part]).to(gradient.dtype)
        return gradient

    def descend(self, inputs: Sequence[Tensor], lowest: int, gradient: Tensor) -> None:
        """Bring `gradient`, at block L's output, down to that of block `lowest`, in place.

        Args:
            inputs: of the blocks `lowest` + 1 … L.
            lowest: the block to stop above.
            gradient: [sequences, positions, d_model]

        Raises:
            NonFiniteResult: naming the layer.
        """
        for layer in range(self.decoder.n_layers, lowest, -1):
            for _ in self._backward(self.decoder.block(layer), inputs[layer - lowest - 1], gradient, taps=False):
                pass

    def _backward(
        self, block: Block, inputs: Tensor, gradient: Tensor, *, taps: bool = True
    ) -> Iterator[tuple[slice, dict[str, _Call]]]:
        """Bring `gradient` from a block's output to its input, a batch at a time.

        Yields:
            the batch' sequences and what went through the block's maps, by path: nothing without `taps`.
        """
        if not bool(torch.isfinite(gradient).all()):
            raise NonFiniteResult(f"the gradient of the loss at the output of layer {block.layer} holds NaN or Inf")
        block.work.add(2 * len(inputs))
        for part in batches(slice(0, len(inputs)), inputs.shape[1], block.memory.tokens):
            # A copy: the gradient at the last map's output may be this very tensor, which is overwritten below.
            pull = block.take(gradient[part].clone())
            calls, down = _pulled(block, block.take(inputs[part]), pull, taps=taps)
            gradient[part] = down.to(gradient.dtype)
            yield part, calls

    def slopes(self, block: Block, inputs: Tensor, gradient: Tensor) -> BlockSlopes:
        """The derivatives of each sequence's summed loss by the log of a scale of the block's matrices.

        The matrices are scaled together and the biases left, at a scale of 1.

        Args:
            block: as it is.
            inputs: of the block.
            gradient: of the loss at its output; brought down to its input, in place.

        Raises:
            NonFiniteResult: the gradient holds NaN or Inf.
        """
        scale, ahead = np.zeros(len(inputs)), np.zeros(len(inputs))
        linears = block.linears()
        parts = {path: _leading(linear) for path, linear in linears.items()}
        for part, calls in self._backward(block, inputs, gradient):
            for path, call in calls.items():
                bias, (into, sizes, out) = linears[path].bias, parts[path]
                made = call.made if bias is None else call.made - bias
                pulled, seen = call.pulled.to(out), call.seen.to(into)
                wide = accumulation_dtype(made.device)
                for sums, products in (
                    (scale, made.to(wide) * call.pulled.to(wide)),
                    (ahead, ((seen @ into) * (pulled @ out)).to(wide) * sizes.to(wide)),
                ):
                    sums[part] += _by_sequence(products.sum(dim=-1), call.tokens, inputs[part]).cpu().numpy()
        return BlockSlopes(scale, scale - ahead)

    def factors(self, block: Block, inputs: Tensor, gradient: Tensor) -> dict[str, Factors]:
        """The curvature factors of the block's maps, by path; for arguments and errors see `slopes`."""
        found: dict[str, Factors] = {}
        linears = block.linears()

        def factors(path: str, beside: str | None = None) -> Factors:
            """Of this map, made when it is first called for; where one sees what another does, beside that one."""
            if path not in found:
                one, other, device = linears[path], None if beside is None else found[beside], self.decoder.device
                found[path] = Factors(one.inputs, one.outputs, biased=one.biased, device=device, beside=other)
            return found[path]

        for _, calls in self._backward(block, inputs, gradient):
            for path, call in calls.items():
                factors(path, call.beside).add(call.seen, call.pulled)
        return {path: factors(path) for path in linears}

    def gradients(self, block: Block, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        """X'G of the block's maps, by path, [inputs, outputs], behind it a row for a bias; for arguments and errors see
        `slopes`.
        """
        linears, wide = block.linears(), accumulation_dtype(self.decoder.device)
        found = {
            path: torch.zeros(one.inputs + one.biased, one.outputs, dtype=wide, device=self.decoder.device)
            for path, one in linears.items()
        }
        for _, calls in self._backward(block, inputs, gradient):
            for path, call in calls.items():
                product = wide_product(call.seen.T, call.pulled)
                if linears[path].biased:
                    product = torch.cat([product, call.pulled.sum(dim=0, keepdim=True, dtype=product.dtype)])
                found[path] += product
        return found

    def push(self, block: Block, inputs: Tensor, tangent: Tensor, changes: Mapping[str, Tensor]) -> None:
        """Bring `tangent`, how the block's input changes, up to its output, in place: to first order, exactly.

        Args:
            block: as it is.
            inputs: of the block, [sequences, positions, d_model].
            tangent: the derivative of `inputs`, of that shape.
            changes: the derivative of the block's maps, by path; [inputs, outputs], behind it a row for a bias.

        Raises:
            NotImplementedError: the block has no forward-mode derivative.
            NonFiniteResult: the tangent became NaN or Inf.
        """
        block.work.add(len(inputs))
        weights, turns, linears = {}, {}, block.linears()
        for path, change in changes.items():
            linear = linears[path]
            weights[f"{path}.weight"] = linear.weight
            turns[f"{path}.weight"] = linear.turned(change[: linear.inputs]).to(linear.weight)
            if linear.biased and linear.bias is not None:
                weights[f"{path}.bias"] = linear.bias
                turns[f"{path}.bias"] = change[linear.inputs].to(linear.bias)
        for part in batches(slice(0, len(inputs)), inputs.shape[1], block.memory.tokens):
            before = (block.take(inputs[part]), weights), (block.take(tangent[part]), turns)
            tangent[part] = _derivative(block, *before).to(tangent.dtype)
        if not bool(torch.isfinite(tangent).all()):
            raise NonFiniteResult(f"a derivative of layer {block.layer} is NaN or Inf")

    def bend(self, final: Tensor, tangent: Tensor, rows: slice) -> None:
        """Turn `tangent`, how the last states of the sequences `rows` change, into the Gauss-Newton curvature of their
        summed loss times it, in place; both are [sequences, positions, d_model].
        """
        targets = self.data.targets(rows)
        for part in batches(slice(0, len(final)), final.shape[1], self.decoder.memory.tokens):
            tangent[part] = self._readout.curvature(final[part], tangent[part], targets[part]).to(tangent.dtype)

    def along(self, final: Tensor, tangent: Tensor, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How the losses of the sequences `rows` change as h_L does: see `Readout.along`."""
        return self._readout.along(final, tangent, self.data.targets(rows))


def _derivative(block: Block, at: tuple[Tensor, Any], along: tuple[Tensor, Any]) -> Tensor:
    """The block's derivative at (hidden states, weights) along changes of both, as [sequences, positions, d_model]."""
    with torch.no_grad():
        try:
            return jvp(lambda hidden, weights: block(hidden, weights), at, along)[1]
        except RuntimeError as error:
            if "forward AD" not in str(error) and "jvp" not in str(error):
                raise
            raise NotImplementedError(f"layer {block.layer} has no forward-mode derivative") from error


def _leading(linear: LinearMap) -> tuple[Tensor, Tensor, Tensor]:
    """The directions of a map's largest singular values: in its inputs, the values, in its outputs."""
    u, s, v = leading(linear.weight, math.ceil(min(linear.weight.shape) * LEADING))
    return (u, s, v) if linear.inputs_first else (v, s, u)


class _Call(NamedTuple):
    """What goes through a map.

    Attributes:
        seen: its inputs, [rows, …].
        made: its outputs.
        pulled: the gradient at these.
        tokens: of an expert's, which tokens the rows are; None for all.
        beside: the path of another that was given the very same inputs before; None of the first of them.
    """

    seen: Tensor
    made: Tensor
    pulled: Tensor
    tokens: Tensor | None = None
    beside: str | None = None


def _pulled(block: Block, hidden: Tensor, gradient: Tensor, *, taps: bool) -> tuple[dict[str, _Call], Tensor]:
    """What goes through each map, with `taps`, and the gradient at the block's input, from that at its output."""
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def keeping(path: str) -> Callable[[Tensor, Tensor], None]:
        def keep(seen: Tensor, made: Tensor) -> None:
            if made.requires_grad:  # what chooses alone is computed without gradients
                calls[path] = (seen, made)

        return keep

    maps = block.linears().items() if taps else ()
    with (
        tapped([(linear.module, keeping(path)) for path, linear in maps]),
        block.watched() as routes,
        torch.enable_grad(),
    ):
        hidden = hidden.detach().requires_grad_()
        output = block(hidden)
        wanted = [hidden, *(made for _, made in calls.values())]
        found = torch.autograd.grad(output, wanted, gradient, allow_unused=True)
    down, *pulls = (
        torch.zeros_like(tensor) if pull is None else pull for tensor, pull in zip(wanted, found, strict=True)
    )
    numbers = block.numbered() if taps else {}
    firsts: dict[int, str] = {}
    for path, (seen, _) in calls.items():
        firsts.setdefault(id(seen), path)
    return {
        path: _Call(
            _rows(seen.detach()),
            _rows(made.detach()),
            _rows(pull),
            routes.of(numbers[path])[0] if path in numbers else None,
            None if firsts[id(seen)] == path else firsts[id(seen)],
        )
        for (path, (seen, made)), pull in zip(calls.items(), pulls, strict=True)
    }, down


def _by_sequence(values: Tensor, tokens: Tensor | None, inputs: Tensor) -> Tensor:
    """[sequences] sums of values of these tokens, all if None, of [sequences, positions, d_model]."""
    sequences, positions, _ = inputs.shape
    if tokens is None:
        return values.view(sequences, -1).sum(dim=1)
    return values.new_zeros(sequences).index_add(0, tokens // positions, values)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
