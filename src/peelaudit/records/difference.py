"""What is otherwise in one checkpoint than in another of the same architecture, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from peelaudit.records.audit import DataInfo
from peelaudit.records.checkpoints import CheckpointInfo
from peelaudit.records.figures import Estimate
from peelaudit.records.quantities import Form, Quantity

__all__ = ["ChangeKind", "Difference", "PartKind", "PartRow", "SettingChange", "Swapped", "TensorChange"]


class PartKind(StrEnum):
    """The parts that two networks can exchange."""

    EMBEDDING = "embedding"
    """All that comes before the blocks."""
    TIED = "embedding and head"
    """The same, where the head's matrix is the embedding in both."""
    BLOCK = "block"
    NORM = "final norm"
    HEAD = "head"


class ChangeKind(StrEnum):
    """How a tensor of NEW differs from BASE's."""

    CHANGED = "changed"
    """Every so often a little, as by rounding or training."""
    UNRELATED = "unrelated"
    """A matrix that has nothing of BASE's."""
    SHIFTED = "shifted"
    """A constant was added."""
    SCALED = "scaled"
    """It was multiplied by a constant."""
    TRANSPOSED = "transposed"
    """A square matrix whose rows are BASE's columns."""
    PAIRED = "paired"
    """Rotary channels lie in pairs, one beside the other, where BASE's lie in halves."""
    HALVED = "halved"
    """The reverse."""
    ROWS = "rows"
    """The same rows in another order."""
    COLUMNS = "columns"
    """The same columns in another order."""
    UNTIED = "untied"
    """The head's matrix is the embedding in BASE, and one of its own in NEW."""
    TIED = "tied"
    """The reverse."""
    ADDED = "added"
    """BASE has none."""
    MISSING = "missing"
    """NEW has none."""


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor that isn't the same, by transformers' name.

    `layer` is the block's that it is in, `within` its name there. `size` is the root mean square of the difference over
    that of the two tensors: 0 for the same, sqrt(2) for unrelated ones. `constant` is what was added, or the factor.
    """

    name: str
    layer: int | None
    within: str
    kind: ChangeKind
    size: float
    constant: float | None = None


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A key of the configuration that has other values, as texts."""

    key: str
    base: str
    new: str


@dataclass(frozen=True, slots=True)
class PartRow:
    """What a part does to the loss.

    `same` says that its weights are the same in both, and what it computes of them too: nothing was swapped then, and
    its figures are 0. `otherwise` says that with the same weights it computes something else: the configuration's
    doing. `weights` is the size of the difference of its weights, as `TensorChange.size`.
    """

    part: PartKind
    layer: int | None
    same: bool
    otherwise: bool
    weights: float
    in_base: Annotated[
        Estimate, Quantity("in BASE", "what NEW's part costs in the place of BASE's, all else BASE's", Form.GAP)
    ]
    kl: Annotated[
        Estimate, Quantity("KL", "how far BASE's predictions move with NEW's part, KL(BASE, BASE with it)", Form.LOSS)
    ]
    in_new: Annotated[
        Estimate, Quantity("in NEW", "what NEW's part costs in the place of BASE's, all else NEW's", Form.GAP)
    ]
    so_far: Annotated[
        Estimate | None, Quantity("so far", "what NEW's parts cost in BASE, from the bottom up to this one", Form.GAP)
    ] = None
    """None where it wasn't measured: in a deep network at some depths alone."""

    @property
    def name(self) -> str:
        """`block 3`, `final norm`."""
        return str(self.part) if self.layer is None else f"{self.part} {self.layer}"


@dataclass(frozen=True, slots=True)
class Swapped:
    """What the parts were swapped on: `sequences` of `of`, of so many `clusters` (documents, or sequences).

    On these, the figures of `PartRow.in_base` add up to `singles`; `whole` is NEW's loss less BASE's, and `left_over`
    the rest of it: what the parts do together and none of them alone.
    """

    sequences: int
    of: int
    clusters: int
    whole: Annotated[Estimate, Quantity("whole", "NEW's loss less BASE's, on what was swapped", Form.GAP)]
    singles: Annotated[Estimate, Quantity("single swaps", "the sum of all parts in BASE, one at a time", Form.GAP)]
    left_over: Annotated[Estimate, Quantity("left over", "what no part does alone", Form.GAP)]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two checkpoints of one architecture, BASE and NEW, on the same tokens. All losses in nats/token.

    `base` and `new` have no list of tensors; `tensors` are those that aren't the same, `same_tensors` is how many
    others there are. `settings` say how to repeat it. `configuration` are the keys that differ, where a part computes
    something else for them. `named` are the places in `rows` of the parts that stand out by what they do to BASE's
    predictions, `changed` of the blocks whose weights are changed more than the others'. `passes` is the cost, in
    forward passes of the whole network over all tokens. `findings` are sentences on what conversions break.
    """

    versions: tuple[tuple[str, str], ...]
    base: CheckpointInfo
    new: CheckpointInfo
    data: DataInfo
    settings: tuple[tuple[str, object], ...]
    base_loss: Annotated[Estimate, Quantity("BASE's loss", "of all tokens that are predicted")]
    new_loss: Annotated[Estimate, Quantity("NEW's loss", "of the same tokens")]
    whole: Annotated[Estimate, Quantity("difference", "NEW's loss less BASE's", Form.GAP)]
    kl: Annotated[Estimate, Quantity("KL", "KL(BASE, NEW), of the predictions of each token", Form.LOSS)]
    swapped: Swapped
    rows: tuple[PartRow, ...]
    tensors: tuple[TensorChange, ...]
    same_tensors: int
    configuration: tuple[SettingChange, ...]
    named: tuple[int, ...]
    changed: tuple[int, ...]
    headline: str
    findings: tuple[str, ...]
    warnings: tuple[str, ...]
    passes: tuple[tuple[str, float], ...]
    timings: tuple[tuple[str, float], ...]
