"""The verdict on a network, and the sentence that says it: the same in every format."""

from __future__ import annotations

from collections.abc import Iterator

from peelaudit.auditing.advice import OVERCONFIDENT
from peelaudit.auditing.parent import ParentFigures
from peelaudit.auditing.wording import numbered
from peelaudit.method.diagnosis.naming import Naming
from peelaudit.method.references.schedules import REFINED
from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import BaselineLosses, Estimate, NetworkRow, Symptom, Verdict

__all__ = ["judge"]

_DEAD = (Symptom.UNTRAINED, Symptom.ATTENTION_SILENT, Symptom.MLP_SILENT)


def judge(
    network: NetworkRow,
    baselines: BaselineLosses,
    over_unigram: Estimate,
    naming: Naming,
    tolerance: float,
    *,
    low_bit: bool = False,
    parent: ParentFigures | None = None,
) -> tuple[Verdict, str]:
    """The network's verdict on *held-out*, with all that is known of its layers, and its headline.

    Args:
        network: its figures, whose verdict is that of the references alone.
        baselines: what needs no model.
        over_unigram: the trained loss minus that of token frequencies, paired.
        naming: what is said of the layers.
        tolerance: nats/token of gap_layers that count as none.
        low_bit: whether its weights are held to sets of few values, of which an estimate for floats tells nothing.
        parent: what it loses to its parent's blocks, if it is held against one. The verdict is of the network by
            itself, whatever that is.
    """
    trained, gap = network.held_out.trained_loss, network.held_out.gap_layers
    if trained.low > baselines.uniform:
        return Verdict.RED, (
            f"broken, untrained, or not made for this tokenizer: its loss of {trained.value:.2f} is worse than "
            f"guessing all tokens alike ({baselines.uniform:.2f})"
        )
    if over_unigram.low > 0:
        return Verdict.RED, (
            f"ineffective: it predicts this text worse ({trained.value:.2f}) than token frequencies alone do "
            f"({baselines.unigram.value:.2f})"
        )
    layers = "".join(f"; {words}" for words in (*_on_layers(naming), *_on_parent(parent)))
    verdict = network.held_out.verdict
    dead = [layer for layer, found in enumerate(naming.symptoms, 1) if any(one in _DEAD for one in found)]
    if dead:
        return Verdict.RED, f"ineffective{layers}"
    if verdict is Verdict.RED and (yes0 := network.held_out.yes0) is not None:
        over = network.held_out.trained_readout_loss.value - yes0.value
        return verdict, f"ineffective: blocks fitted to the last state alone beat it by {over:.3f} nats/token{layers}"
    asides = layers + "".join(f"; {words}" for words in _on_head(network, tolerance))
    if verdict is Verdict.YELLOW:
        return verdict, f"can do better: its layers by {_nats(gap)}{_on_share(naming)}{asides}"
    if naming.named:
        return (
            Verdict.YELLOW,
            f"can do better, though no whole reference gains over {tolerance:g} nats/token{asides}",
        )
    alone = None if naming.strongest is None else naming.gaps[naming.strongest - 1]
    if alone is not None and alone.low > tolerance:
        more = f"more than any whole reference{_on_share(naming)}{asides}"
        return Verdict.YELLOW, f"can do better: layer {naming.strongest} refined alone gains {_nats(alone)}, {more}"
    estimate = network.estimated_gain if network.refinement is None and not low_bit else None
    if estimate is not None and estimate.low > tolerance:
        words = f"its layers by {_nats(estimate)}, as is estimated without refining"
        return Verdict.YELLOW, f"can do better: {words}{asides}"
    judged, words = _unbeaten(network, verdict, tolerance)
    head = network.held_out.gap_head
    if head.low > max(tolerance, RESOLUTION):
        hot = "".join(f"; {told}" for told in _on_temperature(network, tolerance))
        return Verdict.YELLOW, f"can do better: another head alone by {_nats(head)}; {words}{layers}{hot}"
    return judged, f"{'effective' if judged is Verdict.GREEN else 'inconclusive'}: {words}{asides}"


def _unbeaten(network: NetworkRow, verdict: Verdict, tolerance: float) -> tuple[Verdict, str]:
    """What there is to say of layers that no reference is known to beat by more than the tolerance."""
    gap, refinement, estimate = network.held_out.gap_layers, network.refinement, network.estimated_gain
    if verdict is not Verdict.GREEN:
        return verdict, f"the gap of its layers, {_nats(gap)}, straddles {tolerance:g}"
    if refinement is None:
        gains = estimate is not None and estimate.low > tolerance
        floats = f"; as floats its layers could do better by {_nats(estimate)}" if estimate and gains else ""
        return Verdict.GREY, f"no reference wins, but {REFINED}, the strongest, was not run{floats}"
    bits = "within its low-bit weights " if refinement.held else ""
    tried = f"{bits}nothing that was tried, {REFINED} among it"
    return verdict, f"{tried}, beats its layers by over {tolerance:g} nats/token"


def _on_layers(naming: Naming) -> Iterator[str]:
    """Each symptom with its layers, then those whose gap stands out."""
    for symptom in Symptom:
        found = [layer for layer, some in enumerate(naming.symptoms, 1) if symptom in some]
        if found and len(found) == len(naming.symptoms):
            yield f"all layers: {symptom}"
        elif found:
            yield f"{numbered(found)}: {symptom}"
    if naming.refinement is not None and (found := list(naming.refinement.named)):
        yield f"the gap of {numbered(found)} stands out"


def _on_parent(parent: ParentFigures | None) -> Iterator[str]:
    """The layer that does most better with its parent's block, and how many others do."""
    if parent is None or not parent.better:
        return
    first, *others = parent.better
    more = f", less so in {len(others)} more" if others else ""
    yield f"its parent's block does better in layer {first} by {_nats(parent.gaps[first - 1])}{more}"


def _on_share(naming: Naming) -> str:
    """Whose the gap is where no layer is named and one could have been."""
    how = naming.refinement
    if how is None or not how.judged or naming.named:
        return ""
    return f", shared by all layers{f', most in {numbered(how.leading)}' if how.leading else ''}"


def _on_head(network: NetworkRow, tolerance: float) -> Iterator[str]:
    head = network.held_out.gap_head
    if head.low > max(tolerance, RESOLUTION):
        yield f"another head alone would gain {head.value:.3f}"
    yield from _on_temperature(network, tolerance)


def _on_temperature(network: NetworkRow, tolerance: float) -> Iterator[str]:
    gain = network.temperature_gain
    if network.temperature >= OVERCONFIDENT and gain.low > max(tolerance, RESOLUTION):
        yield f"over-confident (a temperature of {network.temperature:.2f} gains {gain.value:.3f})"


def _nats(gap: Estimate) -> str:
    return f"{gap.value:.3f} nats/token ({gap.low:.3f} to {gap.high:.3f})"
