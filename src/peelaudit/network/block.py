"""One decoder block with its weights: called, copied, rounded to its sets."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from peelaudit.network.arguments import Arguments
from peelaudit.network.experts import (
    are_experts,
    down_maps,
    exchange,
    expert_maps,
    routing_of,
    stacked,
    unstacked,
)
from peelaudit.network.linear import LinearMap, is_linear, tapped
from peelaudit.network.lowbit.constraints import Held, Scales
from peelaudit.network.memory import Memory
from peelaudit.network.parts import Family, Writer
from peelaudit.network.routes import Routes
from peelaudit.network.work import Work

__all__ = ["NOTHING_HELD", "Addition", "Block"]

NOTHING_HELD: Mapping[str, Held] = {}


@dataclass(frozen=True, slots=True)
class Addition:
    """What is added to the residual stream: what `module` makes, times `factor`, times the sigmoid of what `gate` makes
    of each token, where there is one.
    """

    module: nn.Module
    factor: float
    gate: nn.Module | None


class Block:
    """One decoder block with its weights, callable on hidden states.

    Attributes:
        layer: 1 … L.
        module: transformers' own module.
        writers: the maps of the attention output and then of the MLP's down projection: of a mixture each expert's, and
            those of what stands beside the experts.
        norms: what each writer's product passes before it is added to the residual stream, or None.
        gates: of each writer the linear map whose sigmoid its product is multiplied by, or None.
        numbers: of each writer which expert's it is; None for others.
        experts: how many of them there are; 0 in a block without.
        work: is told of each call.
        memory: says how much goes through it at once.
        held: the parameters that are low-bit, by name: a reference block's must be too.
    """

    def __init__(
        self,
        layer: int,
        module: nn.Module,
        family: Family,
        arguments: Arguments,
        absent: frozenset[str] = frozenset(),
        held: Mapping[str, Held] = NOTHING_HELD,
        scales: Mapping[str, Scales] | None = None,
        *,
        work: Work,
        memory: Memory,
    ) -> None:
        self.layer = layer
        self.work, self.memory = work, memory
        self.module = module
        self.held = held
        self._scales = scales
        self._family, self._arguments, self._absent = family, arguments, absent
        named = [(writer, path, number) for writer in self._named for path, number in self._maps(writer)]
        self._sources = tuple(writer for writer, _, _ in named)
        self.writers = tuple(self._linear(path) for _, path, _ in named)
        self.norms = tuple(self._submodule(writer.norm) for writer in self._sources)
        self.gates = tuple(self._submodule(writer.gate) for writer in self._sources)
        self.numbers = tuple(number for _, _, number in named)
        self.experts = sum(number is not None for number in self.numbers)

    def __call__(self, hidden: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The block's output, [sequences, positions, d_model], for hidden states of that shape.

        Args:
            hidden: the block's input.
            weights: parameters by name that stand in for the block's own in this call.
        """
        self.work.add(len(hidden))
        args, kwargs = self._arguments.for_batch(len(hidden))
        if weights is None:
            output = self.module(hidden, *args, **kwargs)
        else:
            output = torch.func.functional_call(self.module, dict(weights), (hidden, *args), kwargs)
        return cast("Tensor", output[0] if isinstance(output, tuple) else output)

    @property
    def _named(self) -> tuple[Writer, ...]:
        return self._family.writers[self.layer - 1]

    def _maps(self, writer: Writer) -> Iterator[tuple[str, int | None]]:
        """The paths of a writer's maps, and which expert's each is."""
        module = self.module.get_submodule(writer.path)
        if not are_experts(module):
            yield writer.path, None
            return
        for number, path in enumerate(down_maps(module, writer.path)):
            yield path, number

    @contextlib.contextmanager
    def watched(self) -> Iterator[Routes]:
        """Which tokens each expert is given, in the block's calls as long as it lasts."""
        routes = Routes()
        with tapped([(routing_of(self.module.get_submodule(path)), routes.keep) for path in self._experts]):
            yield routes

    def _submodule(self, path: str | None) -> nn.Module | None:
        return None if path is None else self.module.get_submodule(path)

    @property
    def factors(self) -> tuple[float, ...]:
        """What each writer's product is multiplied by in all on its way to the block's output, gates aside."""
        factors = {writer: self._factor(writer) for writer in self._named}
        return tuple(factors[writer] for writer in self._sources)

    def _factor(self, writer: Writer) -> float:
        tensors = (
            {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())} if writer.learned else {}
        )
        return writer.scale * math.prod(float(tensors[name]) for name in writer.learned)

    @property
    def additions(self) -> tuple[tuple[Addition, ...], tuple[Addition, ...]]:
        """What the attention, and what the MLP adds to the residual stream."""
        added = {  # one for the writers that share a norm
            writer.norm or writer.path: Addition(
                self.module.get_submodule(writer.norm or writer.path),
                self._factor(writer),
                self._submodule(writer.gate),
            )
            for writer in self._named
        }
        attention, *mlp = added.values()
        return (attention,), tuple(mlp)

    def take(self, states: Tensor) -> Tensor:
        """The states where this block computes, in what it computes in."""
        parameter = next(self.module.parameters())
        return states.to(device=parameter.device, dtype=parameter.dtype)

    def linears(self) -> dict[str, LinearMap]:
        """The block's linear maps by path: every module whose weight is a matrix that multiplies hidden states."""
        return {path: self._linear(path) for path, module in self.module.named_modules() if is_linear(module)}

    def numbered(self) -> dict[str, int]:
        """The experts' maps by path, and which expert's each is."""
        found = (expert_maps(self.module.get_submodule(path), path) for path in self._experts)
        return {path: number for maps in found for path, number in maps}

    @property
    def router(self) -> LinearMap | None:
        """What decides which experts a token is given to; None in a block without."""
        beside = [path.rpartition(".")[0] for path in self._experts]
        maps = [one for path, one in self.linears().items() if path.rpartition(".")[0] in beside]
        return next((one for one in maps if one.outputs == self.experts), None)

    @property
    def _experts(self) -> list[str]:
        return [writer.path for writer in self._named if are_experts(self.module.get_submodule(writer.path))]

    def _linear(self, path: str) -> LinearMap:
        module = self.module.get_submodule(path)
        biased = getattr(module, "bias", None) is not None and f"{path}.bias" not in self._absent
        return LinearMap(path, module, biased)

    def copy(self) -> Block:
        """The same block with weights of its own."""
        return self._with(self._copied())

    def _copied(self, *shared: Tensor) -> nn.Module:
        """The module's copy, which shares these with it, and the configurations of its parts, which are only read.

        `deepcopy` is told of those and of the many empty dictionaries, which take most of a small block's copy.
        """
        parts = [vars(module) for module in self.module.modules()]
        known: dict[int, object] = {id(one): one for one in shared}
        known |= {id(part["config"]): part["config"] for part in parts if "config" in part}
        empty = (one for part in parts for one in part.values() if type(one) in (dict, OrderedDict) and not one)
        return copy.deepcopy(self.module, known | {id(one): type(one)() for one in empty})

    def _with(self, module: nn.Module) -> Block:
        known = (self._family, self._arguments, self._absent, self.held, self._scales)
        return Block(self.layer, module, *known, work=self.work, memory=self.memory)

    def replaced(self, weights: Mapping[str, Tensor]) -> Block:
        """The block with other weights (or buffers) by name, in the dtypes of its own, the rest shared with it; nothing
        of it takes a gradient.
        """
        block = self._with(self._copied(*self.module.parameters(), *self.module.buffers()))
        for name, weight in weights.items():
            path, _, own = name.rpartition(".")
            module = block.module.get_submodule(path)
            old = getattr(module, own)
            new = weight.to(old)
            setattr(module, own, nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new)
        block.module.requires_grad_(requires_grad=False)
        return block

    def exchanged(self, order: Sequence[int]) -> Block:
        """The block with its weights shared, and in each expert's place the one that `order` names there."""
        block = self.replaced({})
        for path in self._experts:
            exchange(block.module.get_submodule(path), order)
        return block

    @torch.no_grad()
    def changed(self, changes: Mapping[str, Tensor]) -> Block:
        """The block with something added to its maps, by path: [inputs, outputs], behind it a row for the bias where
        the map has one. The sums are taken in the changes' dtype.
        """
        weights = {}
        for path, change in changes.items():
            linear = self._linear(path)
            parts = [("weight", linear.turned(change[: linear.inputs]))]
            if linear.biased:
                parts.append(("bias", change[linear.inputs]))
            for name, part in parts:
                weights[f"{path}.{name}"] = getattr(linear.module, name).to(part) + part
        return self.replaced(weights)

    def unconstrained(self) -> Block:
        """The same block, its weights shared, whose references may be floats."""
        known = (self._family, self._arguments, self._absent)
        return Block(self.layer, self.module, *known, work=self.work, memory=self.memory)

    def scales(self) -> dict[str, Scales]:
        """Those of the low-bit parameters, which are of their sets.

        They were read before the weights were rounded to float16 or bfloat16: what that moves them by is as large as
        some grids' steps.
        """
        parameters = dict(self.module.named_parameters())
        known = {} if self._scales is None else self._scales
        return {name: known.get(name) or held.scales(parameters[name]) for name, held in self.held.items()}

    @torch.no_grad()
    def rounded(self, scales: Mapping[str, Scales] | None = None) -> Block:
        """The block, low-bit parameters rounded to their sets, with these scales; without any, those that aren't
        of their sets yet with scales of their own.
        """
        parameters = dict(self.module.named_parameters())
        known = None if self._scales is None else dict(self._scales)
        new = {}
        for name, held in self.held.items():
            weight = parameters[name]
            if scales is not None:
                rounded = held.rounded(weight, scales[name])
            elif known is None:
                rounded = held.quantise(weight)
            else:
                rounded = weight if held.fits(weight, known[name]) else held.quantise(weight.float())
            if known is not None and rounded is not weight:
                known[name] = held.scales(rounded) if scales is None else scales[name]
            if rounded is not weight:
                new[name] = rounded
        block = self.replaced(new)
        block._scales = known
        return block

    def writer_held(self, index: int) -> Held | None:
        """What holds the weight of a writer, None where it is float."""
        return self.held.get(f"{self.writers[index].path}.weight")

    def digest(self) -> str:
        """SHA-256 of the weights and their names: equal where two checkpoints have the same block, in any format."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def present(self) -> dict[str, Tensor]:
        """The weights and buffers that the checkpoint has, by transformers' names within the block."""
        return {name: tensor for name, tensor in stacked(self.module).items() if name not in self._absent}

    def loaded(self, weights: Mapping[str, Tensor]) -> Block:
        """The block with weights by transformers' names, as `present` has them."""
        return self.replaced(unstacked(self.module, weights))

    def trainable(self) -> dict[str, nn.Parameter]:
        """The weights that a reference may change, by name: all that the checkpoint has."""
        return {name: weight for name, weight in self.module.named_parameters() if name not in self._absent}
