"""The parts of a network as an audit knows them, by their paths in transformers' module."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Family", "Tail", "Unclear", "Writer"]


class Unclear(Exception):
    """Why a network's structure isn't one that can be audited: half a sentence, after the network's name."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A matrix whose product is added to the residual stream, or a mixture's experts: `path` within the block.

    `norm` is the normalisation that its product goes through before it is added, None where there is none. `scale` is
    what the product is multiplied by in all on its way into the output, and `learned` are tensors of one element,
    by their names in the block, that it is multiplied by besides. `gate` is a linear map whose sigmoid, one number a
    token, the product is multiplied by too.
    """

    path: str
    norm: str | None = None
    scale: float = 1.0
    learned: tuple[str, ...] = ()
    gate: str | None = None


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows the blocks: a norm, by its path, the head, a factor of the logits and then a soft cap of them."""

    norm: str | None
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Where things are in a network's module: its blocks, each block's residual-writing matrices, what follows.

    `writers` are those of each block, the attention's first, then the MLP's: one, or a mixture's experts and what
    stands beside them. `extras` is how many values a block returns behind the hidden states, None where it returns them
    alone.
    """

    blocks: str
    writers: tuple[tuple[Writer, ...], ...]
    tail: Tail
    extras: int | None = None

    def is_mlp_or_output(self, name: str) -> bool:
        """Whether a parameter of a block, by its path in the skeleton, is the MLP's or the attention's output."""
        block, _, path = name.removeprefix(f"{self.blocks}.").partition(".")
        writer = self.writers[int(block)][0].path
        return not path.startswith(f"{writer.rpartition('.')[0]}.") or path == f"{writer}.weight"
