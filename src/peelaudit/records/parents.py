"""The checkpoint that an audited one was held against, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peelaudit.records.checkpoints import CheckpointInfo
from peelaudit.records.figures import Estimate
from peelaudit.records.quantities import Form, Quantity

__all__ = ["Parent"]


@dataclass(frozen=True, slots=True)
class Parent:
    """A checkpoint of the same architecture, as it is saved, whose blocks took the place of the audited ones.

    `checkpoint` has no list of tensors. Losses are under each one's own head. `better` are the layers of which the
    whole interval of `LayerRow.parent_gap` is above the tolerance, those with the largest first.
    """

    checkpoint: CheckpointInfo
    loss: Annotated[Estimate, Quantity("its parent's loss", "the parent's own, of the same tokens")]
    difference: Annotated[
        Estimate, Quantity("trained loss - parent's", "the network's loss less its parent's", Form.GAP)
    ]
    better: tuple[int, ...]
