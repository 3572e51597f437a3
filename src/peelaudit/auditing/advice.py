"""A report in plain words: what each row means, what to do next, and what to be careful about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import (
    BaselineLosses,
    DataInfo,
    Estimate,
    LayerRow,
    LowBit,
    NetworkRow,
    RepairInfo,
    ScheduleResult,
    SplitFigures,
    Symptom,
    Verdict,
)

__all__ = ["TOKENS_PER_UNKNOWN", "advise", "bits_warnings", "calibration_warnings", "rank_warnings", "read_layer"]

TOKENS_PER_UNKNOWN = 10
"""Fit tokens that a block's closed form wants for each unknown of an output."""

_MOST_LISTED = 5

_SYMPTOMS = {
    Symptom.UNTRAINED: "matrices that can't be told from random ones, as if never trained or overwritten",
    Symptom.ATTENTION_SILENT: "an attention that adds nothing to the residual stream",
    Symptom.MLP_SILENT: "an MLP that adds nothing to the residual stream",
    Symptom.NOISY: "matrices whose bulk, what is beside their leading directions, raises the loss as the others' "
    "doesn't, as if noised or rounded after training",
    Symptom.MISSCALED: "matrices whose scale the loss would change, unlike the others', as if disturbed after training",
}

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
    looks = f" Block {layer}: {'; '.join(_SYMPTOMS[symptom] for symptom in symptoms)}." if symptoms else ""
    for symptom, name in ((Symptom.NOISY, "bulk"), (Symptom.MISSCALED, "scale")):
        if symptom in symptoms and symptom in slopes:
            looks += f" Its {name} slope is {slopes[symptom].value:+.4f} {_interval(slopes[symptom])}."
    return f"Cut after layer {layer}, {words}{idle if redundancy.high < _IDLE else ''}{looks}"


def advise(
    network: NetworkRow,
    baselines: BaselineLosses,
    best: ScheduleResult,
    layers: Sequence[LayerRow] = (),
    repair: RepairInfo | None = None,
) -> str:
    """What to make of the audit, in plain words.

    Args:
        network: the network's row.
        baselines: what needs no model.
        best: the schedule behind the held-out bound.
        layers: all of its layers' rows.
        repair: how blocks were repaired, if they were.
    """
    looks, on_repair = _on_looks(layers), "" if repair is None else _on_repair(repair, layers)
    told = f" {on_repair}" if repair is not None and repair.named else ""
    trained, uniform, unigram = network.held_out.trained_loss, baselines.uniform, baselines.unigram
    if trained.low > uniform:
        return (
            f"This checkpoint is broken or untrained, or not made for this tokenizer: its loss of {trained.value:.2f} "
            f"is worse than guessing all tokens alike ({uniform:.2f}). Check the file before anything else."
            f"{looks}{told}"
        )
    if trained.low > unigram.high:
        return (
            f"The network predicts this text worse ({trained.value:.2f}) than token frequencies alone do "
            f"({unigram.value:.2f}): it is untrained, damaged, or the tokenizer or text isn't its own.{looks}{told}"
        )
    return " ".join(filter(None, (_on_layers(network, best) + looks, *_on_head(network), on_repair)))


def _on_looks(layers: Sequence[LayerRow]) -> str:
    """The layers with a symptom, each symptom in a sentence; nothing for none."""
    words = []
    for symptom, says in _SYMPTOMS.items():
        found = [row.layer for row in layers if symptom in row.symptoms]
        if found and len(found) == len(layers):
            words.append(f" All layers: {says}.")
        elif found:
            numbers = ", ".join(map(str, found[:_MOST_LISTED])) + (" and more" if len(found) > _MOST_LISTED else "")
            words.append(f" Look at layer{'s' if len(found) > 1 else ''} {numbers}: {says}.")
    return "".join(words)


def _on_repair(repair: RepairInfo, layers: Sequence[LayerRow]) -> str:
    """Which layers' gaps to look at, at most three, or that none stands out; those with a symptom were told of."""
    gaps = {row.layer: row.repair_gap for row in layers if row.repair_gap is not None and not row.symptoms}
    rest = [gap.value for layer, gap in gaps.items() if layer not in repair.named]
    if not rest:
        return ""
    if not repair.named:
        none = "None of the others" if len(gaps) < len(layers) else "No layer"
        if all(gap.low <= RESOLUTION for gap in gaps.values()):
            return f"{none} gains anything by its repair alone that this text can tell."
        gains = f"repaired alone, they gain {min(rest):.4f} to {max(rest):.4f} nats/token"
        if not repair.judged:
            return (
                f"{gains.capitalize()}; that tells no layer from another where low-bit blocks take one step "
                "(--repair thorough may tell), or where little text is held out."
            )
        return f"{none} stands out: {gains}."
    words = " and ".join(f"layer {layer}, whose repair alone gains {_nats(gaps[layer])}" for layer in repair.named)
    return f"Look at {words}; that of the others gains {min(rest):.4f} to {max(rest):.4f}."


def _on_layers(network: NetworkRow, best: ScheduleResult) -> str:
    figures, gap = network.held_out, network.held_out.gap_layers
    match figures.verdict:
        case Verdict.RED:
            over_yes0 = figures.trained_readout_loss.value - figures.yes0.value
            return (
                "Train on, or look for what stopped training: blocks that were each fitted alone to the last state "
                f"beat the trained ones by {over_yes0:.4f} nats/token on held-out text, the head held equal."
            )
        case Verdict.YELLOW:
            return (
                f"The layers could do {_nats(gap)} better on held-out text, the head held equal: the reference "
                f"{best.name} does. It leaves the trained blocks at layer {_departure(best.targets)}."
            )
        case Verdict.GREEN:
            return f"No reference that was run beats the trained layers on held-out text{_margin(network)}."
        case Verdict.GREY if gap.low > RESOLUTION:
            return (
                f"The layers could do {_nats(gap)} better on held-out text, the head held equal: the reference "
                f"{best.name} does. Whether they even lose to YES-0, this text can't tell; more would."
            )
        case Verdict.GREY:
            return (
                f"The held-out text can't tell whether the layers fall short: their gap is {gap.value:+.4f} "
                f"nats/token, anywhere in {_interval(gap)}. More text would tell."
            )


def _margin(network: NetworkRow) -> str:
    """How far behind the nearest reference is that isn't the trained network itself."""
    if network.margin is None:
        return ""
    return f"; the nearest, {network.rival}, is {_nats(network.margin)} behind"


def _on_head(network: NetworkRow) -> Iterator[str]:
    head = network.held_out.gap_head
    if head.low > RESOLUTION:
        name = "A refitted head" if network.readout == "refit" else f"The readout {network.readout}"
        yield (
            f"{name} alone gains {_nats(head)}: that is the head, or a text unlike that of training, not the layers."
        )
    elif head.high < -RESOLUTION:
        yield (
            f"The readout {network.readout} loses {-head.value:.4f} nats/token against the own head on held-out text: "
            "there was too little text to fit it; compare with --readout own."
        )


def _departure(targets: Sequence[int]) -> int:
    """The first layer that isn't fitted to its own output; the last where all are."""
    return next((layer for layer, target in enumerate(targets, 1) if target != layer), len(targets))


def _nats(gap: Estimate) -> str:
    return f"{gap.value:.4f} nats/token {_interval(gap)}"


def _interval(gap: Estimate) -> str:
    return f"[{gap.low:+.4f}, {gap.high:+.4f}]"


def calibration_warnings(data: DataInfo, unknowns: int) -> tuple[str, ...]:
    """What the size of the calibration text doesn't allow.

    Args:
        data: as used.
        unknowns: of a block's regression, per output.
    """
    wanted = TOKENS_PER_UNKNOWN * unknowns
    if data.fit.tokens >= wanted:
        return ()
    total = sum(split.tokens for split in (data.fit, data.select, data.held_out))
    enough = -(-wanted * total // data.fit.tokens)
    words = (
        f"{data.fit.tokens} fit tokens for {unknowns} unknowns per output of a block: references over-fit and bounds "
        f"come out high; about {enough} tokens in all (--tokens) would give {TOKENS_PER_UNKNOWN} for each"
    )
    return (words,)


def bits_warnings(low_bit: LowBit | None) -> tuple[str, ...]:
    """What float references of low-bit blocks mean; nothing for references of the same bits, or a float network."""
    if low_bit is None or low_bit.held:
        return ()
    found = ", ".join(f"{found.matrices} of {low_bit.matrices} matrices {found.name}" for found in low_bit.sets)
    words = (
        f"the blocks are low-bit ({found}) and the references are float: where one beats this network, the price of "
        "the bits may be why; that none does says all the more"
    )
    return (words,)


def rank_warnings(schedules: Sequence[ScheduleResult]) -> tuple[str, ...]:
    """Which reference blocks the fit tokens don't determine."""
    short = {
        fit.layer: (fit.rank, fit.unknowns)
        for schedule in schedules
        for fit in schedule.blocks
        if fit.rank is not None and fit.unknowns is not None and fit.rank < fit.unknowns
    }
    if not short:
        return ()
    layer, (rank, unknowns) = min(short.items(), key=lambda item: item[1][0] / item[1][1])
    words = (
        f"the fit tokens leave directions of {len(short)} reference blocks undetermined, which stay as trained: of "
        f"layer {layer} they determine {rank} of {unknowns}; more --tokens determine more"
    )
    return (words,)
