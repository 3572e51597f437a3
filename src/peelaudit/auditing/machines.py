"""An audit whose layers are refined on several machines: what each of them is given, does, and gives back.

The states, the head and the network's losses are made once, and so is the one sweep that has the direction of every
block; a machine reads the checkpoint itself. What it finds of a layer is what one machine alone would find.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from peelaudit.auditing.prepare import decoder_of, opened
from peelaudit.auditing.resuming import computing_code
from peelaudit.checkpoints import Checkpoint
from peelaudit.errors import AuditError
from peelaudit.method.diagnosis.examine import LayerGain, layer_gain
from peelaudit.method.linalg.changes import Changes
from peelaudit.method.linalg.descent import Direction
from peelaudit.method.linalg.precision import exact_float32
from peelaudit.method.readouts.readout import Readout, Unembedding
from peelaudit.method.refinement.downstream import Downstream
from peelaudit.method.refinement.reach import Reach, likely_first
from peelaudit.method.refinement.refine import Refined, Refiner
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.decoder import Decoder
from peelaudit.network.states import StateStore, TokenRows
from peelaudit.network.weights import check_weights
from peelaudit.settings.audit import AuditConfig, ReadoutKind

__all__ = ["Common", "Done", "Machines", "Piece", "forget", "refined_layers"]


@dataclass(frozen=True, slots=True)
class _Head:
    """A readout without what each machine has of its own: `weight` None is the model's own head's."""

    kind: ReadoutKind
    weight: Tensor | None
    bias: Tensor | None
    scale: float
    map: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, readout: Readout, decoder: Decoder) -> Self:
        head = readout.unembedding
        weight = None if head.weight is decoder.head.weight else head.weight.cpu()
        bias = None if head.bias is None else head.bias.cpu()
        moved = None if readout.map is None else (readout.map[0].cpu(), readout.map[1].cpu())
        return cls(readout.kind, weight, bias, head.scale, moved)

    def on(self, decoder: Decoder) -> Readout:
        head, place = Unembedding.of(decoder), decoder.device
        weight = head.weight if self.weight is None else self.weight.to(place)
        bias = None if self.bias is None else self.bias.to(place)
        moved = None if self.map is None else (self.map[0].to(place), self.map[1].to(place))
        return Readout(self.kind, replace(head, weight=weight, bias=bias, scale=self.scale), moved)


@dataclass(frozen=True, slots=True)
class Common:
    """What all machines need of an audit beside its states, in main memory.

    Attributes:
        config: the settings, resolved.
        sha256: of the checkpoint.
        data: the tokens.
        head: what reads the last state.
        losses: [sequences] nats of the network under it.
        reach: how far blocks are moved.
        first: the length of a first step, where each run of layers begins (`likely_first`).
        wanted: whether refined blocks are given back.
        sizes: how much is computed at once: tokens, and bytes and words of logits.
        threads: to compute with: sums of another number of them end in other digits.
        computes: what computes: another version of this code or of the libraries does otherwise.
    """

    config: AuditConfig
    sha256: str
    data: TokenRows
    head: _Head
    losses: Losses
    reach: Reach
    first: float | None
    wanted: bool
    sizes: tuple[int, int, int]
    threads: int
    computes: str

    @classmethod
    def of(
        cls,
        config: AuditConfig,
        decoder: Decoder,
        data: TokenRows,
        head: Readout,
        losses: Losses,
        reach: Reach,
        first: float | None,
        *,
        wanted: bool,
    ) -> Self:
        """All of one."""
        memory = decoder.memory
        return cls(
            config=config,
            sha256=decoder.sha256,
            data=data,
            head=_Head.of(head, decoder),
            losses=losses,
            reach=reach,
            first=first,
            wanted=wanted,
            sizes=(memory.tokens, memory.logit_bytes, memory.logit_words),
            threads=torch.get_num_threads(),
            computes=computing_code(),
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """One layer, and the direction of its maps as trained, in main memory."""

    layer: int
    direction: Direction

    @classmethod
    def of(cls, layer: int, direction: Direction) -> Self:
        """Of the sweep's."""
        return cls(layer, Direction(_near(direction.slopes), _near(direction.natural)))


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a piece.

    Attributes:
        layer: which.
        gain: what it gains.
        refined: the block, if it was wanted.
        blocks: passes of one block over a sequence that it took.
        head: passes of the head over a token.
        notes: what is to be told of memory that ran out.
    """

    layer: int
    gain: LayerGain
    refined: Refined | None
    blocks: float
    head: float
    notes: tuple[str, ...]


class Machines(Protocol):
    """Has `refined_layers` done somewhere."""

    def check(self, config: AuditConfig) -> None:
        """Raise ConfigError where an audit by these settings, which are resolved, can't be done there."""
        ...

    def __call__(self, common: Common, states: Sequence[Tensor], pieces: Iterable[Piece]) -> Iterator[Done]:
        """What becomes of each piece, in their order; the states are h_0 … h_L, each [sequences, positions, d_model].

        Raises:
            PeelauditError: as `refined_layers`, or that machines are lost.
        """
        ...


class _Opened(NamedTuple):
    """An audit on this machine."""

    key: str
    common: Common
    network: Downstream
    states: Sequence[Tensor]
    checkpoint: Checkpoint


_LAST: list[_Opened] = []
"""The one that this process refined a layer of last: most of its pieces are of one audit."""


def refined_layers(
    key: str, fetch: Callable[[], tuple[Common, Iterable[Tensor]]], pieces: Iterable[Piece]
) -> Iterator[Done]:
    """Refine layers of an audit in this process, each alone.

    Args:
        key: of the audit.
        fetch: what its pieces have in common, and the states.
        pieces: the layers, which follow one another and begin a run.

    Raises:
        AuditError: the checkpoint here is another one, or another peelaudit.
        PeelauditError: as the audit itself.
    """
    firsts: list[float | None] = []
    for piece in pieces:
        with exact_float32():
            if not _LAST or _LAST[0].key != key:
                forget()
                _LAST.append(_opened(key, *fetch()))
            done = _refined(_LAST[0], piece, likely_first([_LAST[0].common.first, *firsts]))
        firsts.append(done.gain.first)
        yield done


def _refined(there: _Opened, piece: Piece, first: float | None) -> Done:
    _, common, network, states, _ = there
    work, memory, losses = network.decoder.work, network.decoder.memory, common.losses
    memory.tokens, memory.logit_bytes, memory.logit_words = common.sizes
    memory.stage, memory.notes = "layers' gaps", ()
    before = work.blocks, work.head

    def compute() -> tuple[Refined, LayerGain]:
        work.blocks, work.head = before
        refiner = Refiner(network, states, losses)
        refiner.begin(piece.direction)
        refiner.recall()
        refined = refiner.alone(piece.layer, common.reach, first=first)
        return refined, layer_gain(refiner, refined, losses, common.data.rows.held_out, before)

    refined, gain = memory.retried(compute)
    given = replace(refined, changes=_near(refined.changes)) if common.wanted else None
    return Done(piece.layer, gain, given, work.blocks - before[0], work.head - before[1], memory.notes)


def forget() -> None:
    """Close what this process holds of an audit."""
    while _LAST:
        _LAST.pop().checkpoint.close()


def _opened(key: str, common: Common, states: Iterable[Tensor]) -> _Opened:
    config = common.config
    torch.set_num_threads(common.threads)
    if common.computes != computing_code():
        raise AuditError(f"the machine {platform.node()} has another peelaudit, torch, transformers or numpy")
    with contextlib.ExitStack() as stack:
        checkpoint = stack.enter_context(opened(config))
        if checkpoint.info.sha256 != common.sha256:
            raise AuditError(f"{config.checkpoint} on the machine {platform.node()} is another checkpoint")
        grids = check_weights(checkpoint, device=torch.device(config.device))
        decoder, _ = decoder_of(config, checkpoint, grids, common.data.tokens.shape[1])
        store = StateStore.of(decoder)
        held = [store.empty(*state.shape, dtype=state.dtype).copy_(state) for state in states]
        network = Downstream(decoder, common.data, common.head.on(decoder), store)
        stack.pop_all()
    return _Opened(key, common, network, held, checkpoint)


def _near(changes: Changes) -> dict[tuple[int, str], Tensor]:
    return {key: changes[key].cpu() for key in changes}
