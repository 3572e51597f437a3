"""What `fix` has changed in a network, and what that gained."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peelaudit.records.audit import DataInfo
from peelaudit.records.figures import Estimate

__all__ = ["Fix", "FixKind"]


class FixKind(StrEnum):
    """What is written."""

    REFINED = "refined"
    """The network with all blocks refined together."""
    LAYERS = "layers"
    """The network with some blocks refined, one after another."""
    DROPPED = "dropped"
    """The network without some of its blocks, the others refined."""
    ADAPTER = "adapter"
    """An adapter of low rank, which changes the network much as refining its blocks does."""


@dataclass(frozen=True, slots=True)
class Fix:
    """A mended checkpoint. Losses are in nats/token on *held-out*, under the network's own head.

    `before` is the loss of the checkpoint, `after` that of what was written, read back, and `gain` their difference on
    the same tokens. `checkpoint_sha256` is of the files that were read, `written_sha256` of those that were written.
    `layers` are the blocks whose weights are others, by their numbers in the checkpoint, as those of `dropped` are.
    `head` says whether the head is another one too. `rank` is an adapter's. `same_files` says whether the checkpoint's
    own files were written again with other values in some tensors; else it is a directory of floats for transformers.
    `steps` and `products` are those of the refinement.
    """

    kind: FixKind
    checkpoint: str
    checkpoint_sha256: str
    out: str
    written_sha256: str
    same_files: bool
    data: DataInfo
    effort: str
    layers: tuple[int, ...]
    dropped: tuple[int, ...]
    head: bool
    rank: int | None
    steps: int
    products: int
    before: Estimate
    after: Estimate
    gain: Estimate
    notes: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]
