"""How many bits each matrix of each block is given, and what that costs the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peelaudit.records.audit import DataInfo
from peelaudit.records.checkpoints import CheckpointInfo
from peelaudit.records.figures import Estimate
from peelaudit.records.quantities import Form, Quantity

__all__ = ["Alone", "Budget", "BudgetRow", "Rounded"]


@dataclass(frozen=True, slots=True)
class Alone:
    """What a matrix costs with so many bits, all else float, on the text that the choice was made by."""

    bits: int
    loss: Annotated[Estimate, Quantity("loss", "the loss with that matrix alone rounded, less the float's", Form.GAP)]
    kl: Annotated[Estimate, Quantity("KL", "how far the float network's predictions move with it", Form.LOSS)]

    @property
    def cost(self) -> float:
        """By which bits are given out, nats/token: the KL, which little text tells, or as much loss as is certain where
        that is more: what is left of it twice as far down as its interval goes, for it is one of many.
        """
        return max(self.kl.value, 2 * self.loss.low - self.loss.value)


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A matrix of a block, by its name there: how many weights it has, and how many bits each of them is given. A
    mixture's experts have one row together.

    `spread` is how many it has where the same budget is given out evenly. `groups` are the lengths of the groups of
    inputs that share a scale, `gguf` the names of its tensors in a GGUF file, where they are known.
    """

    layer: int
    name: str
    weights: int
    groups: tuple[int, ...]
    gguf: tuple[str, ...]
    bits: int
    spread: int
    alone: tuple[Alone, ...]

    def at(self, bits: int) -> Alone:
        """What it costs with one of the widths."""
        return next(one for one in self.alone if one.bits == bits)


@dataclass(frozen=True, slots=True)
class Rounded:
    """A network whose matrices are rounded, on *held-out*.

    `bits` is how many a weight takes on average for its code, and `with_scales` with its share of the scales, of 16
    bits each. `cost` is its loss less the float network's.
    """

    bits: float
    with_scales: float
    loss: Annotated[Estimate, Quantity("loss", "of the rounded network")]
    cost: Annotated[Estimate, Quantity("cost", "its loss less the float network's", Form.GAP)]
    kl: Annotated[Estimate, Quantity("KL", "how far the float network's predictions move", Form.LOSS)]


@dataclass(frozen=True, slots=True)
class Budget:
    """Bits given out by what each matrix costs with fewer. All losses in nats/token.

    `average` is what was asked for, in bits of a weight's code; `group` how many inputs share a scale, where their
    number can be divided so. `chosen` is the network that was found, `spread` that with the same budget given out
    evenly, both on *held-out*, which nothing was chosen by; `gain` and `kl_gain` are what the first has less. What
    matrices do alone was measured on `sequences` of the `of` sequences of *select*. `passes` is the cost, in forward
    passes of the whole network over all tokens.
    """

    versions: tuple[tuple[str, str], ...]
    checkpoint: CheckpointInfo
    data: DataInfo
    settings: tuple[tuple[str, object], ...]
    average: float
    widths: tuple[int, ...]
    group: int
    sequences: int
    of: int
    rows: tuple[BudgetRow, ...]
    float_loss: Annotated[Estimate, Quantity("float loss", "of the network as it is")]
    chosen: Rounded
    spread: Rounded
    gain: Annotated[Estimate, Quantity("gain", "how much lower the loss is than with bits given out evenly", Form.GAP)]
    kl_gain: Annotated[Estimate, Quantity("KL gain", "how much lower the KL is", Form.GAP)]
    headline: str
    warnings: tuple[str, ...]
    passes: tuple[tuple[str, float], ...]
    timings: tuple[tuple[str, float], ...]
