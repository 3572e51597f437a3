"""Which layers to look at, and how suspect each one is: symptoms, slopes and gaps put together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from peelaudit.method.diagnosis.examine import Examination
from peelaudit.method.diagnosis.outliers import FEWEST_CLUSTERS, BulkSlopes, Gaps, ScaleSlopes, standing_out, suspicion
from peelaudit.method.diagnosis.routing import at_chance, most_lost
from peelaudit.method.diagnosis.symptoms import symptoms
from peelaudit.method.statistics.panel import Losses, no_loss
from peelaudit.records import DataInfo, Estimate, LayerRefinement, Symptom, named_layers

__all__ = ["Naming", "name_layers", "naming_warnings"]


@dataclass(frozen=True, slots=True)
class Naming:
    """What an examination says of the layers, all [L] but `refinement`.

    Attributes:
        symptoms: of each.
        slopes: of each on *held-out*, nats/token, by the symptom that they show; empty where it has none.
        gaps: what refining each block alone gains; None where none was.
        refinement: how blocks were refined, if they were.
        strongest: the layer, 1 … L, that gains most on *select* refined alone; None where none does.
        lost_by_routing: what each router loses by its own choice where that is most, nats/token; None for layers
            without one.
        suspicion: by a layer's looks, else by how far its gap or a slope of its stands out.
    """

    symptoms: tuple[tuple[Symptom, ...], ...]
    slopes: tuple[Mapping[Symptom, Estimate], ...]
    gaps: tuple[Estimate | None, ...]
    refinement: LayerRefinement | None
    suspicion: Losses
    strongest: int | None = None
    lost_by_routing: tuple[float | None, ...] = ()

    @property
    def named(self) -> tuple[int, ...]:
        """See `named_layers`."""
        return named_layers(self.symptoms, self.refinement)


def name_layers(examined: Examination) -> Naming:
    """Judge the layers on *held-out*.

    Where a block is silent or random, the loss would scale others too, so that their slopes aren't held against them.
    Where one has another's weights, the blocks around it can gain more than it can, so that no gap is.

    Args:
        examined: the layers.

    Raises:
        NonFiniteResult: a figure is NaN or Inf.
    """
    looks = _with_routers(symptoms(examined.signs, examined.digests), examined)
    suspects = tuple(layer for layer, found in enumerate(looks, 1) if found)
    slopes = _yardsticks(examined)
    if slopes is not None and not suspects:
        looks = _disturbed(*slopes)
    of = partial(examined.panel.estimate, split="held_out")
    found, refinement, gaps, strongest = examined.gains, None, None, None
    if found is not None:
        gaps = Gaps(examined.panel, found.gains, low_bit=found.low_bit, one_step=found.first_step)
        sick = [layer for layer, some in enumerate(looks, 1) if some]
        copied = any(Symptom.SAME_WEIGHTS in some for some in looks)
        named = () if copied else standing_out(gaps, sick)
        strongest = int(np.argmax(found.on_select)) + 1 if max(found.on_select) > 0 else None
        refinement = LayerRefinement(
            found.steps, found.products, found.passes, named, judged=gaps.judged and not copied, leading=gaps.leading()
        )
    yardsticks = (*(slopes or ()), *(() if gaps is None else (gaps,)))
    suspicions = [suspicion(yardstick, suspects) for yardstick in yardsticks]
    return Naming(
        symptoms=looks,
        slopes=tuple(
            {} if one is None else {Symptom.NOISY: of(one.bulk), Symptom.MISSCALED: of(one.scale)}
            for one in examined.slopes
        ),
        gaps=tuple(no_loss(of(gain)) for gain in found.gains) if found else (None,) * len(looks),
        refinement=refinement,
        suspicion=_suspects_first(np.max(suspicions, axis=0) if suspicions else np.zeros(len(looks)), suspects),
        strongest=strongest,
        lost_by_routing=most_lost(examined.panel, examined.routings),
    )


def _with_routers(looks: tuple[tuple[Symptom, ...], ...], examined: Examination) -> tuple[tuple[Symptom, ...], ...]:
    """The looks, and that of a router that does no better than chance below all blocks that look ill otherwise: what
    is above one isn't given what it was trained on.
    """
    if len(examined.panel.cluster_predictions("held_out")) < FEWEST_CLUSTERS:
        return looks
    lowest = next((layer for layer, some in enumerate(looks, 1) if some), len(looks) + 1)
    barred = range(lowest, len(looks) + 1)
    found = at_chance(examined.panel, examined.routings, barred)
    return tuple((*some, Symptom.ROUTER_AT_CHANCE) if layer in found else some for layer, some in enumerate(looks, 1))


def naming_warnings(data: DataInfo) -> tuple[str, ...]:
    """Whether the held-out text is too little to name a layer by its figures."""
    clusters = data.held_out.clusters
    if clusters >= FEWEST_CLUSTERS:
        return ()
    words = (
        f"no layer is named by its slopes or its gap: {clusters} held-out {data.unit}s are too few to tell what "
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
