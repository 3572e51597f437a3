"""A network without its blocks, and the proof that blocks, norm and head are all that it has.

The module is built on the meta device, its blocks are taken out and replaced by recorders; what is left (embeddings,
rotary tables, final norm, head) is small and loaded for good. Running that shell tells, for every block, the very
arguments that the model's own forward passes it.

What an audit computes is transformers' own network if three things hold of the code around the blocks: a block is given
just what the one before it returned, its other arguments don't depend on the tokens, and the logits are those of our
norm and head. None of them depends on what a block computes, so that recorders that return random states in the blocks'
place prove them, for any size of network, without a block being read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from peelaudit.checkpoints import Checkpoint
from peelaudit.checkpoints.unheard import unheard
from peelaudit.errors import UnsupportedCheckpoint
from peelaudit.network.arguments import Arguments, Call
from peelaudit.network.parts import Family
from peelaudit.network.unembedding import Unembedding

__all__ = ["Shell", "fill_buffers", "prove"]

PROBED = 8
"""Positions whose logits are compared, of two sequences."""
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Between our logits and transformers', relative to the largest: the rounding of some sums of different order."""


class _Chain:
    """Random states in place of what the blocks return, and whether each block is given the one before it."""

    def __init__(self) -> None:
        self._first = torch.empty(0)
        self._blocks = 0
        self.last: Tensor | None = None
        self.intact = True

    def next(self, hidden: Tensor) -> Tensor:
        """What a block that is given `hidden` is taken to return: for each the same numbers in other channels, as to
        draw new ones for 80 layers of a large network takes half a minute.
        """
        if self.last is None:
            generator = torch.Generator().manual_seed(0)
            self._first = torch.randn(hidden.shape, generator=generator).to(hidden)
        elif not torch.equal(self.last, hidden):
            self.intact = False
        self.last = self._first.roll(self._blocks, dims=-1)
        self._blocks += 1
        return self.last


class _Recorder(nn.Module):
    """Stands where a block was: remembers what it was called with, and passes the hidden states on, or random ones."""

    def __init__(self, block: nn.Module, extras: int | None) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not as a part of this module
        self._extras = extras
        self.hidden: Tensor | None = None
        self.call: Call = ((), {})
        self.chain: _Chain | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.hidden, self.call = hidden, (args, kwargs)
        reply = hidden if self.chain is None else self.chain.next(hidden)
        return reply if self._extras is None else (reply, *[None] * self._extras)


@dataclass(frozen=True, slots=True)
class _Run:
    """What transformers' code around the blocks did: h_0, the blocks' other arguments, what the last block returned,
    and the logits, if they were asked for.
    """

    embedded: Tensor
    calls: list[Call]
    last: Tensor
    intact: bool
    logits: Tensor | None


class Shell:
    """Everything but the blocks, with real weights and buffers.

    Attributes:
        model: transformers' module, recorders in its blocks' place.
        blueprints: the blocks, on the meta device.
        norm: the final norm; one that changes nothing where there is none.
        head: the output embeddings.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, device: torch.device, dtype: torch.dtype) -> None:
        skeleton = checkpoint.skeleton()
        blocks = cast("nn.ModuleList", skeleton.get_submodule(family.blocks))
        self.blueprints = list(blocks)
        self._recorders = [_Recorder(block, family.extras) for block in self.blueprints]
        for index, recorder in enumerate(self._recorders):
            blocks[index] = recorder
        self.model = _load(skeleton, checkpoint, device, dtype)
        self.norm = nn.Identity() if family.tail.norm is None else self.model.get_submodule(family.tail.norm)
        self.head = cast("nn.Linear", self.model.get_output_embeddings())

    def embed(self, tokens: Tensor) -> Tensor:
        """h_0, [sequences, positions, d_model], of token ids [sequences, positions] on the shell's device."""
        self._forward(tokens, whole=False)
        hidden = self._recorders[0].hidden
        self._forget()
        return cast("Tensor", hidden)

    def run(self, sequences: int, positions: int, *, whole: bool = False) -> _Run:
        """Run random tokens where every block returns a random state; the `whole` model, for its logits.

        Raises:
            Exception: transformers' code can't do with that.
        """
        generator = torch.Generator().manual_seed(sequences)
        known = min(self.head.out_features, self.model.get_input_embeddings().num_embeddings)
        tokens = torch.randint(known, (sequences, positions), generator=generator)
        chain = _Chain()
        for recorder in self._recorders:
            recorder.chain = chain
        output = self._forward(tokens.to(self.head.weight.device), whole=whole)
        calls, embedded = [recorder.call for recorder in self._recorders], self._recorders[0].hidden
        self._forget()
        return _Run(
            cast("Tensor", embedded),
            calls,
            cast("Tensor", chain.last),
            chain.intact,
            output.logits if whole else None,
        )

    @torch.no_grad()
    def _forward(self, tokens: Tensor, *, whole: bool) -> Any:
        module = self.model if whole else getattr(self.model, self.model.base_model_prefix)
        with unheard():  # a checkpoint's padding token may be among them
            return module(input_ids=tokens, use_cache=False)

    def _forget(self) -> None:
        for recorder in self._recorders:
            recorder.hidden, recorder.call, recorder.chain = None, ((), {}), None


def prove(shell: Shell, unembedding: Unembedding, seq_len: int, name: str) -> list[Arguments]:
    """Hold what an audit computes to transformers' own module.

    Args:
        shell: of the network.
        unembedding: what is taken for the network's norm and head.
        seq_len: positions of every sequence that will be run.
        name: of the checkpoint, for messages.

    Returns:
        what each block is called with.

    Raises:
        UnsupportedCheckpoint: they aren't the same.
    """
    try:
        one, two = (shell.run(sequences, seq_len) for sequences in (1, 2))
        inner, outer = (shell.run(2, min(PROBED, seq_len), whole=whole) for whole in (False, True))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        kind = type(error).__name__
        raise UnsupportedCheckpoint(f"{name}: transformers can't run it without its blocks ({kind})") from error
    if not all(run.intact for run in (one, two, inner, outer)):
        raise UnsupportedCheckpoint(f"{name}: hidden states are changed between one block and the next")
    plain = [_plain(*calls) for calls in zip(inner.calls, outer.calls, strict=True)]
    arguments = [Arguments.of(*calls) for calls in zip(_with(one.calls, plain), _with(two.calls, plain), strict=True)]
    same = [Arguments.of(*calls) for calls in zip(_with(inner.calls, plain), outer.calls, strict=True)]
    if None in arguments or None in same or not torch.equal(inner.embedded, outer.embedded):
        raise UnsupportedCheckpoint(f"{name}: what the blocks are given depends on more than the embedding")
    if outer.logits is None or not _agree(outer.logits, unembedding.logits(outer.last)):
        raise UnsupportedCheckpoint(f"{name}: transformers' logits aren't those of the final norm and the head alone")
    return cast("list[Arguments]", arguments)


def _plain(inner: Call, outer: Call) -> dict[str, Any]:
    """What the whole model alone passes to a block, by name: settings, not tensors."""
    return {name: value for name, value in outer[1].items() if name not in inner[1] and not isinstance(value, Tensor)}


def _with(calls: list[Call], plain: list[dict[str, Any]]) -> list[Call]:
    return [(args, {**kwargs, **more}) for (args, kwargs), more in zip(calls, plain, strict=True)]


def _agree(theirs: Tensor, ours: Tensor) -> bool:
    """Whether logits are the same but for rounding, and are numbers at the same places."""
    if theirs.shape != ours.shape:
        return False
    furthest = highest = 0.0
    for a, b in zip(theirs.flatten(0, -2), ours.flatten(0, -2), strict=True):
        finite = a.isfinite()
        if not torch.equal(finite, b.isfinite()):
            return False
        if not finite.all():
            a, b = a[finite], b[finite]
        if len(a):
            highest, furthest = (
                max(highest, float(a.abs().max())),
                max(furthest, float((a.to(b.dtype) - b).abs().max())),
            )
    return furthest <= _TOLERANCES[theirs.dtype] * max(1e-30, highest)


def _load(shell: nn.Module, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
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


@torch.no_grad()
def fill_buffers(model: Any, block: nn.Module, device: torch.device, name: str) -> None:
    """Give a block's tables that no checkpoint has (rotary ones, masks) the values that transformers gives them.

    Args:
        model: transformers', of which it is a block.
        block: its weights loaded, the tables on the meta device.
        device: where they go.
        name: of the block, for messages.

    Raises:
        UnsupportedCheckpoint: transformers leaves one without values.
    """
    owners = [owner for owner in block.modules() if any(one.is_meta for one in owner.buffers(recurse=False))]
    for tensor in (*block.parameters(), *block.buffers()):
        if not tensor.is_meta:
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    for owner in owners:
        for key, table in owner.named_buffers(recurse=False):
            if table.is_meta:
                unset = float("nan") if table.is_floating_point() else 0
                owner._buffers[key] = torch.full_like(table, unset, device=device)
        model._init_weights(owner)
        if any(bool(table.isnan().any()) for table in owner.buffers(recurse=False)):
            raise UnsupportedCheckpoint(f"{name} has tables that neither the checkpoint nor transformers fills")
