"""The words that readings, advice and cautions share: of symptoms, of some layers, of some experts."""

from __future__ import annotations

from collections.abc import Sequence

from peelaudit.records import LayerSigns, Symptom

__all__ = ["MOST_LISTED", "SYMPTOMS", "experts", "numbered"]

MOST_LISTED = 5
"""Layers or experts that are listed; of more the first ones."""

SYMPTOMS = {
    Symptom.UNTRAINED: "matrices that can't be told from random ones, as if never trained or overwritten",
    Symptom.ROUTER_AT_CHANCE: "its router does no better than with its experts exchanged, as if drawn anew",
    Symptom.EXPERT_UNTRAINED: "an expert whose matrices can't be told from random ones, as if never trained",
    Symptom.ATTENTION_SILENT: "an attention that adds nothing to the residual stream, or the same to every token",
    Symptom.MLP_SILENT: "an MLP that adds nothing to the residual stream, or the same to every token",
    Symptom.COARSE: "weights of two or three values where the other layers' have more, as if rounded by mistake",
    Symptom.SAME_WEIGHTS: "the same weights in each, to the last bit, as of a copy or of a shard that is there twice",
    Symptom.NOISY: "matrices whose bulk, what is beside their leading directions, raises the loss as the others' "
    "doesn't, as if noised or rounded after training",
    Symptom.MISSCALED: "matrices whose scale the loss would change, unlike the others', as if disturbed after training",
}


def numbered(layers: Sequence[int]) -> str:
    """`layer 3`, or `layers 3, 7`, of many the first few."""
    more = " and more" if len(layers) > MOST_LISTED else ""
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers[:MOST_LISTED]))}{more}"


def experts(found: Sequence[int], signs: LayerSigns) -> str:
    """Some of its experts: `expert 3 (of 0 to 7)`."""
    numbers = ", ".join(map(str, found[:MOST_LISTED])) + (" and more" if len(found) > MOST_LISTED else "")
    return f"expert{'s' if len(found) > 1 else ''} {numbers} (of 0 to {(signs.experts or 0) - 1})"
