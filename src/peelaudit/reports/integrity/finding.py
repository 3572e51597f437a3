"""What may be wrong with a series of checkpoints, as records; and what their names say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from peelaudit.records import AuditReport, Estimate

__all__ = ["Defect", "Finding", "Step", "number_in", "of_steps", "stem_of"]

Step = tuple[int, AuditReport]
"""A step of a training run, with the report of its checkpoint."""


class Defect(StrEnum):
    """What may be wrong with a series."""

    SAME_WEIGHTS = "same weights"
    SHARED_LAYERS = "shared layers"
    OUT_OF_LINE = "out of line"
    JUMP = "jump"
    LOSS_BACK = "loss goes back"
    MISNAMED = "misnamed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a series.

    `steps` and `checkpoints`, the paths, belong together. Of steps out of line and jumps they are the neighbour before
    and the step itself (and the neighbour behind, if it is out of line); of a loss that goes back the step that is the
    best so far and those above it; of misnamed ones, `steps` is what they record. `layers` are those that are shared,
    and `neighbours` says whether the steps follow one another, so that these layers may not have been trained in
    between. `distance` is how far the step is from its neighbours, nats/token, and `times` by how much more than what
    is around it. `rise` is the largest loss above that of the first step, paired, and `highest` where it is. If
    `exchanged`, the losses would fall throughout if the first and the last of the steps changed places.
    """

    defect: Defect
    steps: tuple[int, ...]
    checkpoints: tuple[str, ...]
    layers: tuple[int, ...] = ()
    neighbours: bool = False
    distance: float | None = None
    times: float | None = None
    rise: Estimate | None = None
    highest: int | None = None
    exchanged: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """By which it is the same while the series grows."""
        return self.defect, self.checkpoints[:2]


def of_steps(defect: Defect, steps: Sequence[Step], **figures: Any) -> Finding:
    """The finding about these steps, with what else it holds."""
    paths = tuple(report.checkpoint.path for _, report in steps)
    return Finding(defect, tuple(step for step, _ in steps), paths, **figures)


def number_in(path: str) -> int | None:
    """The last whole number in a checkpoint's name, its suffix aside: ckpt-000250.pt is 250."""
    digits: list[str] = re.findall(r"[0-9]{1,18}", stem_of(path))
    return int(digits[-1]) if digits else None


def stem_of(path: str) -> str:
    """A checkpoint's name without its suffix."""
    return re.sub(r"\.[A-Za-z]\w*$", "", PurePath(path).name)
