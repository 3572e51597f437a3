"""Which layers to look at, and how suspect each one is: symptoms, slopes and repair gaps put together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from peelaudit.method.diagnosis.examine import Examination
from peelaudit.method.diagnosis.outliers import FEWEST_CLUSTERS, BulkSlopes, Gaps, ScaleSlopes, standing_out, suspicion
from peelaudit.method.diagnosis.symptoms import symptoms
from peelaudit.method.statistics.panel import Losses
from peelaudit.records import DataInfo, Estimate, RepairInfo, Symptom, named_layers

__all__ = ["Naming", "name_layers", "naming_warnings"]


@dataclass(frozen=True, slots=True)
class Naming:
    """What an examination says of the layers, all [L] but `repair`.

    Attributes:
        symptoms: of each.
        slopes: of each on *held-out*, nats/token, by the symptom that they show; empty where it has none.
        repair_gaps: None where no repair was asked for.
        repair: how blocks were repaired, if they were.
        suspicion: by a layer's looks, else by how far its repair gap or a slope of its stands out.
    """

    symptoms: tuple[tuple[Symptom, ...], ...]
    slopes: tuple[Mapping[Symptom, Estimate], ...]
    repair_gaps: tuple[Estimate | None, ...]
    repair: RepairInfo | None
    suspicion: Losses

    @property
    def named(self) -> tuple[int, ...]:
        """See `named_layers`."""
        return named_layers(self.symptoms, self.repair)


def name_layers(examined: Examination, mode: str) -> Naming:
    """Judge the layers on *held-out*.

    Where a block is silent or random, the loss would scale others too, so that their slopes aren't held against them.

    Args:
        examined: the layers.
        mode: of the repairs.

    Raises:
        NonFiniteResult: a figure is NaN or Inf.
    """
    looks = symptoms(examined.signs)
    suspects = tuple(layer for layer, found in enumerate(looks, 1) if found)
    slopes = _yardsticks(examined)
    if slopes is not None and not suspects:
        looks = _disturbed(*slopes)
    of = partial(examined.panel.estimate, split="held_out")
    repairs, repair, gaps = examined.repairs, None, None
    if repairs is not None:
        gaps = Gaps(examined.panel, repairs.gains, low_bit=repairs.low_bit, one_step=mode == "cheap")
        sick = [layer for layer, found in enumerate(looks, 1) if found]
        repair = RepairInfo(mode, repairs.steps, repairs.passes, standing_out(gaps, sick), gaps.judged)
    yardsticks = (*(slopes or ()), *(() if gaps is None else (gaps,)))
    suspicions = [suspicion(yardstick, suspects) for yardstick in yardsticks]
    return Naming(
        symptoms=looks,
        slopes=tuple(
            {} if one is None else {Symptom.NOISY: of(one.bulk), Symptom.MISSCALED: of(one.scale)}
            for one in examined.slopes
        ),
        repair_gaps=tuple(map(of, repairs.gains)) if repairs else (None,) * len(looks),
        repair=repair,
        suspicion=_suspects_first(np.max(suspicions, axis=0) if suspicions else np.zeros(len(looks)), suspects),
    )


def naming_warnings(data: DataInfo) -> tuple[str, ...]:
    """Whether the held-out text is too little to name a layer by its figures."""
    clusters = data.held_out.clusters
    if clusters >= FEWEST_CLUSTERS:
        return ()
    words = (
        f"no layer is named by its slopes or its repair gap: {clusters} held-out {data.unit}s are too few to tell what "
        f"is chance; {FEWEST_CLUSTERS} would do"
    )
    return (words,)


def _yardsticks(examined: Examination) -> tuple[BulkSlopes, ScaleSlopes] | None:
    """What to judge slopes by; None where a block has none."""
    slopes = [slope for slope in examined.slopes if slope is not None]
    if len(slopes) < len(examined.slopes):
        return None
    panel = examined.panel
    return BulkSlopes(panel, [one.bulk for one in slopes]), ScaleSlopes(panel, [one.scale for one in slopes])


def _disturbed(bulk: BulkSlopes, scale: ScaleSlopes) -> tuple[tuple[Symptom, ...], ...]:
    """The symptoms that slopes tell, one a layer. What is next to a noisy one isn't misscaled: the loss would have it
    louder.
    """
    noisy = standing_out(bulk)
    barred = [near for layer in noisy for near in (layer - 1, layer, layer + 1)]
    named = {Symptom.NOISY: noisy, Symptom.MISSCALED: standing_out(scale, barred=barred)}
    layers = range(1, len(scale.sizes) + 1)
    return tuple(tuple(symptom for symptom, where in named.items() if layer in where) for layer in layers)


def _suspects_first(found: Losses, suspects: Collection[int]) -> Losses:
    """[L] those of the suspects above all others'."""
    known = [layer in suspects for layer in range(1, len(found) + 1)]
    above: Losses = np.where(known, found + found.max() + 1, found)
    return above
