"""A checkpoint as a decoder: one block at a time out of the meta device, and kept where there is room for many.

All attention, norm and rotary code is transformers'. What isn't a block (embeddings, rotary tables, final norm, head)
is loaded for good (`peelaudit.network.shell`), and tells what every block is called with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from peelaudit.checkpoints import Checkpoint
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.network.block import Block
from peelaudit.network.experts import map_names, separate, stacks
from peelaudit.network.families import family_of
from peelaudit.network.linear import keeps_inputs_first
from peelaudit.network.lowbit.constraints import Constraint, Held, Scales
from peelaudit.network.memory import Memory
from peelaudit.network.parts import Unclear
from peelaudit.network.shell import Shell, fill_buffers, prove
from peelaudit.network.unembedding import Unembedding
from peelaudit.network.work import Work
from peelaudit.progress import Progress

__all__ = ["Decoder", "prove_whole"]

_PROBE = 32
"""Positions of the sequences that a network is proven on, where it isn't run on others."""


class Decoder:
    """A checkpoint's network, embedding and head in memory, blocks on demand.

    Attributes:
        work: what its blocks and its head computed.
        memory: what they may take.

    Args:
        checkpoint: open, with complete weights.
        seq_len: positions of every sequence that will be run.
        device: where blocks compute.
        dtype: what they compute in; the readout's losses are always summed in float64.
        constraints: of the low-bit matrices, by their names in the checkpoint.
        rounding: whether matrices that aren't of their sets yet (the latent weights of quantisation-aware training) are
            rounded when they are read: the network that they stand for.

    Raises:
        UnsupportedCheckpoint: it can't be audited, or doesn't compute what transformers' own module does.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        seq_len: int,
        device: torch.device,
        dtype: torch.dtype,
        constraints: Mapping[str, Constraint] | None = None,
        rounding: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._constraints, self._rounding = constraints or {}, rounding
        self._seq_len = seq_len
        self.low_bit = bool(self._constraints)
        self.work = Work()
        self.family = family_of(checkpoint)
        self.device, self.dtype = device, dtype
        self._shell = Shell(checkpoint, self.family, device, dtype)
        self.config = self._shell.model.config
        self.n_layers = len(self._shell.blueprints)
        self.norm, self.head = self._shell.norm, self._shell.head
        self.width = self.head.in_features
        self.vocabulary = self.head.out_features
        self.memory = Memory(seq_len, self.vocabulary, self.device)
        self._arguments = prove(self._shell, Unembedding.of(self), seq_len, checkpoint.info.path)
        self._replaced: Mapping[int, Callable[[], Block]] = {}
        self._kept = _Kept(self.memory, device)

    @property
    def passes(self) -> float:
        """What was computed so far, in forward passes of the whole network over one sequence: by each token's
        multiplications with weights, attention's own left out.
        """
        return self.passes_of(self.work.blocks, self.work.head)

    def passes_of(self, blocks: float, head: float) -> float:
        """The same of so many passes of one block over a sequence, and of the head over a token."""
        share = self.head_share
        return (1 - share) * blocks / self.n_layers + share * head / self._seq_len

    @property
    def blueprints(self) -> Sequence[nn.Module]:
        """The blocks without their weights."""
        return self._shell.blueprints

    @property
    def head_share(self) -> float:
        """The head's share of a forward pass."""
        head: float = self.vocabulary * self.width
        return head / (head + sum(_size(blueprint, self.config) for blueprint in self._shell.blueprints))

    @property
    def sha256(self) -> str:
        """Of the checkpoint's files."""
        return self._checkpoint.info.sha256

    def beside(self, checkpoint: Checkpoint) -> Decoder:
        """Another checkpoint's network of the same architecture, its weights as they are, to be run beside this one:
        its work counts as this one's, it computes as much at once, and where memory is limited it keeps no block.

        Raises:
            UnsupportedCheckpoint: as for any.
        """
        other = Decoder(checkpoint, seq_len=self._seq_len, device=self.device, dtype=self.dtype)
        other.work, memory = self.work, other.memory
        memory.tokens, memory.logit_bytes = self.memory.tokens, self.memory.logit_bytes
        memory.block_bytes = None if self.memory.block_bytes is None else 0
        return other

    def replacing(self, block: Block) -> Decoder:
        """The same network with another block in the place of the one of that layer."""
        return self.replacing_each([block.layer], lambda _: block)

    def replacing_each(self, layers: Iterable[int], make: Callable[[int], Block]) -> Decoder:
        """The same network with other blocks in the places of some, each made when it is asked for."""
        other = copy.copy(self)
        other._replaced = {**self._replaced, **{layer: partial(make, layer) for layer in layers}}
        return other

    def embed(self, tokens: Tensor) -> Tensor:
        """h_0, [sequences, positions, d_model], of token ids [sequences, positions]."""
        return self._shell.embed(tokens.to(self.device))

    def block(self, layer: int) -> Block:
        """Block `layer`, 1 … L, its weights not requiring gradients. Others may have the same one in their hands: who
        would change it in place makes a copy.
        """
        if layer in self._replaced:
            return self._replaced[layer]()
        return self._kept.get(layer) or self._kept.added(self._read(layer))

    def _read(self, layer: int) -> Block:
        self.memory.reclaim()
        module = copy.deepcopy(self._shell.blueprints[layer - 1])
        prefix = f"{self.family.blocks}.{layer - 1}."
        held = self._held(module, prefix)
        weights: dict[str, Tensor] = {}
        scales: dict[str, Scales] = {}
        stacked = stacks(module)
        for name in module.state_dict():
            weight = self._checkpoint.tensor(prefix + name)
            maps = dict(zip(map_names(name, len(weight)), weight, strict=True)) if name in stacked else {name: weight}
            if self._rounding and not held.keys().isdisjoint(maps):
                maps = {one: held[one].quantise(matrix.float()) for one, matrix in maps.items()}
                weight = torch.stack([*maps.values()]) if name in stacked else maps[name]
            weights[name] = weight.to(device=self.device, dtype=self.dtype)
            if self.dtype in (torch.float16, torch.bfloat16):
                low = {one: matrix for one, matrix in maps.items() if one in held}
                scales.update((one, held[one].scales(matrix.float().to(self.device))) for one, matrix in low.items())
        module.load_state_dict(weights, strict=True, assign=True)
        fill_buffers(self._shell.model, module, self.device, f"{self._checkpoint.info.path}: layer {layer}")
        module.requires_grad_(requires_grad=False).eval()
        self._separate(module, layer)
        absent = frozenset(name for name in weights if prefix + name in self._checkpoint.absent)
        known = (self.family, self._arguments[layer - 1], absent, held, scales or None)
        return Block(layer, module, *known, work=self.work, memory=self.memory)

    def _separate(self, module: nn.Module, layer: int) -> None:
        """Make the block's experts linear maps of their own, as `Block` needs them."""
        try:
            separate(module)
        except Unclear as error:
            raise UnsupportedCheckpoint(f"{self._checkpoint.info.path}: layer {layer}: {error}") from None

    def _held(self, module: nn.Module, prefix: str) -> dict[str, Held]:
        """The block's low-bit parameters, experts' as they are named once they are maps of their own."""
        held = {}
        stacked = stacks(module)
        for name, weight in module.named_parameters():
            owner = module.get_submodule(name.rpartition(".")[0])
            turned = stacked[name] if name in stacked else keeps_inputs_first(owner)
            for one in map_names(name, len(weight)) if name in stacked else [name]:
                if (constraint := self._constraints.get(prefix + one)) is not None:
                    held[one] = Held(constraint, turned, self._checkpoint.parts(prefix + name))
        return held


def _size(block: nn.Module, config: Any) -> float:
    """How many weights a token is multiplied with in a block; of experts, those of as many as it is given."""
    weights = sum(weight.numel() for weight in block.parameters() if weight.dim() == 2)
    experts = sum(weight.numel() for weight in block.parameters() if weight.dim() > 2)
    chosen, of = (getattr(config, name, None) for name in ("num_experts_per_tok", "num_local_experts"))
    of = of or getattr(config, "num_experts", None)
    return weights + experts * (chosen / of if chosen and of else 1)


def prove_whole(checkpoint: Checkpoint, progress: Progress) -> None:
    """Put the network together on the CPU, block after block, and hold it to transformers' own as an audit does.

    Raises:
        UnsupportedCheckpoint: it can't be audited, or doesn't compute what transformers' own module does.
    """
    layers = checkpoint.info.layers
    progress.stage("prove the network", layers)
    length = min(_PROBE, checkpoint.info.context)
    decoder = Decoder(checkpoint, seq_len=length, device=torch.device("cpu"), dtype=torch.float32)
    for layer in range(1, layers + 1):
        decoder.block(layer)
        progress.advance()


CACHED = 1 << 30
"""Bytes of blocks that are kept in main memory. Beyond that, computing takes so long that reading hardly matters."""


class _Kept:
    """Blocks that were read and fit in so many bytes, the first ones: all are asked for in turns."""

    def __init__(self, memory: Memory, device: torch.device) -> None:
        self._memory, self._device = memory, device
        self._taken = 0
        self._blocks: dict[int, Block] = {}

    def get(self, layer: int) -> Block | None:
        return self._blocks.get(layer)

    def added(self, block: Block) -> Block:
        size = sum(tensor.nbytes for tensor in (*block.module.parameters(), *block.module.buffers()))
        if self._taken + size <= self._room:
            self._taken += size
            self._blocks[block.layer] = block
        return block

    @cached_property
    def _room(self) -> int:
        """Bytes for blocks: of a CUDA device, where each would be carried there again, a quarter of what is free."""
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info(self._device)[0] // 4
        return CACHED if self._memory.block_bytes is None else min(CACHED, self._memory.block_bytes)
