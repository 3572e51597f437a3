"""A depth's row of the peel profile in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from peelaudit.auditing.wording import SYMPTOMS, experts
from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import Estimate, LayerSigns, SplitFigures, Symptom, Verdict

__all__ = ["read_layer"]

_IDLE = 0.01
"""A block that moves the state by less than this share of its spread hardly does anything."""


def read_layer(
    layer: int,
    figures: SplitFigures,
    schedule: str,
    target: int,
    redundancy: Estimate,
    symptoms: Sequence[Symptom] = (),
    slopes: Mapping[Symptom, Estimate] = MappingProxyType({}),
    signs: LayerSigns | None = None,
) -> str:
    """A depth's row, in a sentence or two.

    Args:
        layer: k.
        figures: of the first k blocks on *held-out*.
        schedule: the reference behind the bound.
        target: the state that its block k is fitted to.
        redundancy: of leaving block k out.
        symptoms: of block k.
        slopes: of block k, by the symptom that each shows.
        signs: of block k.
    """
    gap = figures.gap_layers
    aim = "its own state" if target == layer else f"the state after layer {target}"
    reference = f"the reference {schedule}, whose block {layer} is fitted to {aim},"
    match figures.verdict:
        case Verdict.GREEN:
            words = "no reference that was run predicts better."
        case Verdict.YELLOW:
            words = f"{reference} predicts {_nats(gap)} better."
        case Verdict.RED:
            words = "even blocks fitted straight to the last state predict better; "
            words += f"{reference} by {_nats(gap)}."
        case Verdict.GREY if gap.low > RESOLUTION:
            words = f"{reference} predicts {_nats(gap)} better; whether YES-0 does too, the held-out text can't tell."
        case Verdict.GREY:
            words = f"the held-out text can't tell the trained blocks from {reference} {_interval(gap)}."
    idle = f" Without block {layer} the state moves by {redundancy.value:.2%} of its spread: it hardly does anything."
    looks = f" Block {layer}: {'; '.join(SYMPTOMS[symptom] for symptom in symptoms)}." if symptoms else ""
    for symptom, name in ((Symptom.NOISY, "bulk"), (Symptom.MISSCALED, "scale")):
        if symptom in symptoms and symptom in slopes:
            looks += f" Its {name} slope is {slopes[symptom].value:+.4f} {_interval(slopes[symptom])}."
    if signs is not None and Symptom.EXPERT_UNTRAINED in symptoms:
        looks += f" That is {experts(signs.random_experts, signs)}."
    if signs is not None and signs.dead:
        looks += f" No calibration token reaches {experts(signs.dead, signs)} of block {layer}."
    return f"Cut after layer {layer}, {words}{idle if redundancy.high < _IDLE else ''}{looks}"


def _nats(gap: Estimate) -> str:
    return f"{gap.value:.4f} nats/token {_interval(gap)}"


def _interval(gap: Estimate) -> str:
    return f"[{gap.low:+.4f}, {gap.high:+.4f}]"
