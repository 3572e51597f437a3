"""Hidden states on the device, in memory or on disk, and the passes that make them: block by block, batch by batch.

A boundary state is one tensor, [sequences, positions, d_model], the three splits after one another. States live on the
GPU that computes, if one does, in memory where it has no room left, and in unlinked memory-mapped files where that has
none. Blocks are asked of the decoder one at a time.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from peelaudit.calibration import Calibration, Split
from peelaudit.errors import NonFiniteResult
from peelaudit.network.block import Block
from peelaudit.network.decoder import Decoder
from peelaudit.network.memory import batches
from peelaudit.progress import SILENT, Progress

__all__ = [
    "NO_TARGET",
    "Rows",
    "StateStore",
    "TokenRows",
    "apply_block",
    "asked",
    "available_memory",
    "check_state",
    "embedded",
    "trained_states",
]

NO_TARGET = -100
"""Stands for a token that isn't to be predicted; torch's losses leave it out."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Which sequences of a state belong to which split."""

    fit: slice
    select: slice
    held_out: slice


@dataclass(frozen=True, slots=True)
class TokenRows:
    """The calibration tokens, [sequences, positions] int64, and where the splits are in them.

    `fed_only`, [sequences, positions], says which of them the network sees and isn't asked to predict; None is for
    none but the first of each sequence.
    """

    tokens: Tensor
    rows: Rows
    fed_only: Tensor | None = None

    @classmethod
    def of(cls, calibration: Calibration) -> TokenRows:
        """Fit, select and held-out, stacked in this order."""
        splits = (calibration.fit, calibration.select, calibration.held_out)
        a, b, c = (len(split.tokens) for split in splits)
        masks = [torch.from_numpy(split.fed_only) for split in splits if split.fed_only is not None]
        return cls(
            torch.cat([torch.from_numpy(split.tokens) for split in splits]),
            Rows(slice(0, a), slice(a, a + b), slice(a + b, a + b + c)),
            torch.cat(masks) if masks else None,
        )

    @classmethod
    def alone(cls, split: Split) -> TokenRows:
        """A single split, as *held-out*."""
        nothing = slice(0, 0)
        fed_only = None if split.fed_only is None else torch.from_numpy(split.fed_only)
        rows = Rows(nothing, nothing, slice(0, len(split.tokens)))
        return cls(torch.from_numpy(split.tokens), rows, fed_only)

    def thinned(self, step: int) -> TokenRows:
        """The same, where one in `step` of the tokens that are to be predicted still is, in each sequence from another
        one on.
        """
        asked = self.targets(slice(None))[:, 1:] != NO_TARGET
        number = asked.cumsum(dim=1) + torch.arange(len(asked))[:, None]
        fed_only = torch.ones_like(self.tokens, dtype=torch.bool)
        fed_only[:, 1:] = ~asked | (number % step != 0)
        return replace(self, fed_only=fed_only)

    def targets(self, rows: slice) -> Tensor:
        """The tokens of some sequences, [sequences, positions], `NO_TARGET` where one isn't to be predicted."""
        tokens = self.tokens[rows]
        return tokens if self.fed_only is None else tokens.masked_fill(self.fed_only[rows], NO_TARGET)

    def predictions(self, rows: slice) -> Tensor:
        """[sequences] int64: how many tokens each of some sequences predicts."""
        return (self.targets(rows)[:, 1:] != NO_TARGET).sum(dim=1)


def asked(targets: Tensor, tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Where something is to be predicted of [sequences, positions]: which sequences and which positions, both [n], so
    many at a time. What is predicted there is the token one position on.
    """
    for part in torch.split((targets[:, 1:] != NO_TARGET).nonzero(), tokens):
        sequences, positions = part.T
        yield sequences, positions


CPU = torch.device("cpu")


class StateStore:
    """Allocates states on the device and in memory, up to so many bytes each, then in temporary files that the system
    reclaims by itself.

    A state's bytes come back when its tensor is dropped. One store serves a whole audit: two would each count on what
    is there.

    Args:
        budget: bytes to hold in memory; None takes half of what is available now.
        dtype: of the states.
        device: that computes.
        device_budget: bytes to hold on the device; None takes half of what is free there now, if it is a CUDA device.
    """

    def __init__(
        self,
        budget: int | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        device: torch.device = CPU,
        device_budget: int | None = None,
    ) -> None:
        if device_budget is None:
            device_budget = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0
        self._left = {CPU: available_memory() // 2 if budget is None else budget}
        if device != CPU:
            self._left = {device: device_budget, **self._left}
        self.dtype = dtype

    @classmethod
    def of(cls, decoder: Decoder) -> StateStore:
        """For the states of a network, in as much memory as it may take."""
        return cls(decoder.memory.state_bytes, decoder.dtype, device=decoder.device)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised state of this shape, in the store's dtype unless said otherwise.

        Raises:
            OSError: the disk has no room for it.
        """
        dtype = dtype or self.dtype
        size = torch.Size(shape).numel() * dtype.itemsize
        for place, left in self._left.items():
            if size <= left:
                self._left[place] -= size
                state = torch.empty(shape, dtype=dtype, device=place)
                weakref.finalize(state, self._give_back, place, size)
                return state
        with tempfile.NamedTemporaryFile(prefix="peelaudit-", delete=False) as file:
            path = Path(file.name)
            try:
                _reserve(file.fileno(), size)
                mapped = torch.from_file(str(path), shared=True, size=torch.Size(shape).numel(), dtype=dtype)
            finally:
                path.unlink()
        return mapped.view(shape)

    def fits(self, *shapes: Sequence[int]) -> bool:
        """Whether states of these shapes have room where states go first: on the device that computes, or in memory."""
        size = sum(torch.Size(shape).numel() for shape in shapes) * self.dtype.itemsize
        return size <= next(iter(self._left.values()))

    def _give_back(self, place: torch.device, size: int) -> None:
        self._left[place] += size


def _reserve(file: int, size: int) -> None:
    """Take the bytes from the disk now: a write to a mapped page that has none kills the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, max(1, size))


def available_memory() -> int:
    """Bytes of physical memory that are free or reclaimable now; 4 GiB where the system doesn't say."""
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 4 << 30


@torch.no_grad()
def apply_block(
    block: Block,
    states: Tensor,
    output: Tensor,
    *,
    device: torch.device,
    dtype: torch.dtype,
    what: str,
) -> Tensor:
    """Write `block(states)` into `output`, both [sequences, positions, d_model], and return it.

    Raises:
        NonFiniteResult: naming `what`, if a value of the output is NaN or Inf, or so large that a norm overflows.
    """
    for part in batches(slice(0, len(states)), states.shape[1], block.memory.tokens):
        result = block(states[part].to(device=device, dtype=dtype))
        _check(result, what)
        output[part] = result.to(output.dtype)
    return output


def check_state(state: Tensor, tokens: int, what: str) -> None:
    """The same check of a state that wasn't computed by `apply_block`, about `tokens` tokens at a time."""
    for part in batches(slice(0, len(state)), state.shape[1], tokens):
        _check(state[part], what)


def _check(state: Tensor, what: str) -> None:
    """Raise NonFiniteResult, naming `what`, where a state isn't finite, or the sum of its squares isn't: a norm divides
    by it, so that what follows is 0, and the network's logits are dead.
    """
    if not bool(torch.isfinite(state).all()):
        raise NonFiniteResult(f"{what}: hidden states became NaN or Inf")
    if not bool(torch.isfinite(state.to(torch.promote_types(state.dtype, torch.float32)).square().sum(dim=-1)).all()):
        raise NonFiniteResult(f"{what}: hidden states became so large that a norm of them overflows")


def embedded(decoder: Decoder, tokens: Tensor, store: StateStore) -> Tensor:
    """h_0, [sequences, positions, d_model].

    Raises:
        NonFiniteResult: it holds NaN or Inf.
    """
    state = store.empty(*tokens.shape, decoder.width)
    for part in batches(slice(0, len(tokens)), tokens.shape[1], decoder.memory.tokens):
        state[part] = decoder.embed(tokens[part]).to(state.dtype)
    _check(state, "the embedding")
    return state


def trained_states(
    decoder: Decoder, tokens: Tensor, store: StateStore, *, progress: Progress = SILENT
) -> tuple[Tensor, ...]:
    """h_0 … h_L of the trained model, L + 1 tensors [sequences, positions, d_model].

    Raises:
        NonFiniteResult: naming the layer after which a state holds NaN or Inf.
    """
    progress.stage("hidden states", decoder.n_layers + 1)
    place = {"device": decoder.device, "dtype": decoder.dtype}
    states = [embedded(decoder, tokens, store)]
    progress.advance()
    for layer in range(1, decoder.n_layers + 1):
        block = decoder.block(layer)
        into = store.empty(*states[-1].shape)
        states.append(apply_block(block, states[-1], into, what=f"layer {layer}", **place))  # type: ignore[arg-type]
        progress.advance()
    return tuple(states)
