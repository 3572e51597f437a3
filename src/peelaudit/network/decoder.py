"""A checkpoint as a decoder: one block at a time out of the meta device, and kept where there is room for many.

All attention, norm and rotary code is transformers'. The module is built on the meta device, its blocks are taken
out and replaced by recorders; what is left (embeddings, rotary tables, final norm, head) is small and loaded for
good. Running that shell once tells, for every block, the very arguments that the model's own forward would pass it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from peelaudit.checkpoints import Checkpoint
from peelaudit.network.block import Block, Work
from peelaudit.network.families import family_of
from peelaudit.network.linear import keeps_inputs_first
from peelaudit.network.lowbit.constraints import Constraint, Held

__all__ = ["Decoder"]


class _Recorder(nn.Module):
    """Stands where a block was: remembers what it was called with and passes the hidden states on."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.hidden, self.arguments = hidden, (args, kwargs)
        return hidden


class Decoder:
    """A checkpoint's network, embedding and head in memory, blocks on demand.

    Attributes:
        work: what all of its blocks computed.

    Args:
        checkpoint: open, with complete weights.
        seq_len: positions of every sequence that will be run.
        device: where blocks compute.
        dtype: what they compute in; the readout's losses are always summed in float64.
        constraints: of the low-bit matrices, by their names in the checkpoint.
        rounding: whether matrices that aren't of their sets yet (the latent weights of quantisation-aware training) are
            rounded when they are read: the network that they stand for.

    Raises:
        UnsupportedCheckpoint: if the family is not in `FAMILIES` or this variant of it can't be peeled.
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
        self.low_bit = bool(self._constraints)
        self.work = Work()
        self.family = family_of(checkpoint)
        self.device, self.dtype = device, dtype
        shell = checkpoint.skeleton()
        self.config = shell.config
        blocks = cast("nn.ModuleList", shell.get_submodule(self.family.blocks))
        self._blueprints = list(blocks)
        self.n_layers = len(self._blueprints)
        self._recorders = [_Recorder() for _ in self._blueprints]
        for index, recorder in enumerate(self._recorders):
            blocks[index] = recorder
        self._shell = _load_shell(shell, checkpoint, device, dtype)
        self.norm = shell.get_submodule(self.family.norm)
        self.head = cast("nn.Linear", self._shell.get_output_embeddings())
        self.softcap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self.width = self.head.in_features
        self.vocabulary = self.head.out_features
        self._run_shell(torch.zeros(1, seq_len, dtype=torch.long, device=device))
        self._arguments = [recorder.arguments for recorder in self._recorders]
        self._replaced: Mapping[int, Block] = {}
        self._kept = _Kept(_room(device))

    def replacing(self, block: Block) -> Decoder:
        """The same network with another block in the place of the one of that layer."""
        other = copy.copy(self)
        other._replaced = {**self._replaced, block.layer: block}
        return other

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> Tensor:
        """h_0, [sequences, positions, d_model], of token ids [sequences, positions]."""
        return self._run_shell(tokens.to(self.device))

    def _run_shell(self, tokens: Tensor) -> Tensor:
        base = getattr(self._shell, self._shell.base_model_prefix)
        with torch.no_grad():
            base(input_ids=tokens, use_cache=False)
        hidden = self._recorders[0].hidden
        for recorder in self._recorders:
            recorder.hidden = None
        return cast("Tensor", hidden)

    def block(self, layer: int) -> Block:
        """Block `layer`, 1 … L, its weights not requiring gradients. Others may have the same one in their hands: who
        would change it in place makes a copy.
        """
        if layer in self._replaced:
            return self._replaced[layer]
        return self._kept.get(layer) or self._kept.added(self._read(layer))

    def _read(self, layer: int) -> Block:
        module = copy.deepcopy(self._blueprints[layer - 1])
        prefix = f"{self.family.blocks}.{layer - 1}."
        held = self._held(module, prefix)
        weights, scales = {}, {}
        for name in module.state_dict():
            weight = self._checkpoint.tensor(prefix + name)
            weight = held[name].quantise(weight.float()) if self._rounding and name in held else weight
            weights[name] = weight.to(device=self.device, dtype=self.dtype)
            if name in held and self.dtype in (torch.float16, torch.bfloat16):
                scales[name] = held[name].scales(weight.float().to(self.device))
        module.load_state_dict(weights, strict=True, assign=True)
        module.requires_grad_(requires_grad=False).eval()
        absent = frozenset(name for name in weights if prefix + name in self._checkpoint.absent)
        known = (self.family, self._arguments[layer - 1], absent, held, scales or None)
        return Block(layer, module, *known, work=self.work)

    def _held(self, module: nn.Module, prefix: str) -> dict[str, Held]:
        """The block's low-bit parameters."""
        held = {}
        for name, _ in module.named_parameters():
            if (constraint := self._constraints.get(prefix + name)) is not None:
                owner = module.get_submodule(name.rpartition(".")[0])
                held[name] = Held(constraint, transposed=keeps_inputs_first(owner))
        return held


CACHED = 1 << 30
"""Bytes of blocks that are kept in main memory. Beyond that, computing takes so long that reading hardly matters."""


class _Kept:
    """Blocks that were read and fit in so many bytes, the first ones: all are asked for in turns."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._blocks: dict[int, Block] = {}

    def get(self, layer: int) -> Block | None:
        return self._blocks.get(layer)

    def added(self, block: Block) -> Block:
        size = sum(tensor.nbytes for tensor in (*block.module.parameters(), *block.module.buffers()))
        if size <= self._room:
            self._room -= size
            self._blocks[block.layer] = block
        return block


def _room(device: torch.device) -> int:
    """Bytes for blocks: of a CUDA device, where each would be carried there again, a quarter of what is free."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else CACHED


def _load_shell(shell: nn.Module, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """Everything but the blocks, with real weights and buffers, on `device`."""
    model = cast("Any", shell)
    model.to_empty(device=device)
    weights = {
        name: checkpoint.tensor(name).to(device=device, dtype=dtype)
        for name, _ in model.named_parameters(remove_duplicate=False)
    }
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # transformers then fills the buffers alone
    model.initialize_weights()
    return model.requires_grad_(requires_grad=False).eval()
