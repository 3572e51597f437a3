"""A report in plain words: what each row means, what to do next, and what to be careful about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import (
    BaselineLosses,
    DataInfo,
    Estimate,
    LayerRefinement,
    LayerRow,
    LayerSigns,
    LowBit,
    NetworkRow,
    ScheduleResult,
    SplitFigures,
    Symptom,
    Verdict,
)
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.bits import parse_bits
from peelaudit.settings.command import NETWORK, STORED, TEXT, next_command

__all__ = [
    "OVERCONFIDENT",
    "TOKENS_PER_UNKNOWN",
    "advise",
    "bits_warnings",
    "calibration_warnings",
    "experts_warnings",
    "numbered",
    "rank_warnings",
    "read_layer",
]

OVERCONFIDENT = 1.05
"""A temperature from which on a network is called over-confident, where it gains."""
TOKENS_PER_UNKNOWN = 10
"""Fit tokens that a block's closed form wants for each unknown of an output."""

_MOST_LISTED = 5

_SYMPTOMS = {
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
    looks = f" Block {layer}: {'; '.join(_SYMPTOMS[symptom] for symptom in symptoms)}." if symptoms else ""
    for symptom, name in ((Symptom.NOISY, "bulk"), (Symptom.MISSCALED, "scale")):
        if symptom in symptoms and symptom in slopes:
            looks += f" Its {name} slope is {slopes[symptom].value:+.4f} {_interval(slopes[symptom])}."
    if signs is not None and Symptom.EXPERT_UNTRAINED in symptoms:
        looks += f" That is {_experts(signs.random_experts, signs)}."
    if signs is not None and signs.dead:
        looks += f" No calibration token reaches {_experts(signs.dead, signs)} of block {layer}."
    return f"Cut after layer {layer}, {words}{idle if redundancy.high < _IDLE else ''}{looks}"


def _experts(found: Sequence[int], signs: LayerSigns) -> str:
    """Some of its experts: `expert 3 (of 0 to 7)`."""
    numbers = ", ".join(map(str, found[:_MOST_LISTED])) + (" and more" if len(found) > _MOST_LISTED else "")
    return f"expert{'s' if len(found) > 1 else ''} {numbers} (of 0 to {(signs.experts or 0) - 1})"


def experts_warnings(layers: Sequence[LayerRow]) -> tuple[str, ...]:
    """Which experts the calibration text says nothing of."""
    found = [(row.layer, row.signs) for row in layers if row.signs is not None and row.signs.dead]
    if not found:
        return ()
    told = "; ".join(f"layer {layer}: {_experts(signs.dead, signs)}" for layer, signs in found[:_MOST_LISTED])
    more = f"; and {len(found) - _MOST_LISTED} layers more" if len(found) > _MOST_LISTED else ""
    words = (
        f"no calibration token is given to some experts ({told}{more}): they are dead, or for a text of another kind, "
        "and nothing here is said of them"
    )
    return (words,)


def advise(
    network: NetworkRow,
    baselines: BaselineLosses,
    over_unigram: Estimate,
    layers: Sequence[LayerRow],
    refinement: LayerRefinement | None,
    config: AuditConfig,
    *,
    better_in_parent: Sequence[int] = (),
    cut_at: int | None = None,
) -> str:
    """What to do next, in plain words; the last of them are a command or an experiment. The report has the figures.

    Args:
        network: the network's row, with its verdict.
        baselines: what needs no model.
        over_unigram: the trained loss minus that of token frequencies, paired, as the verdict goes by.
        layers: all of its layers' rows.
        refinement: how blocks were refined alone, if they were.
        config: the settings of the audit.
        better_in_parent: the layers in which the parent's blocks do better, if there is one, the most first.
        cut_at: positions of a sequence, where the network could see many more.
    """
    trained = network.held_out.trained_loss
    if trained.low > baselines.uniform:
        return (
            "Check the file before anything else: whether it is complete, its tokenizer its own, and its weights those "
            f"that were saved. Then: {next_command('inspect', config, '--tensors', keep=STORED)}"
        )
    looks = _on_looks(layers)
    named = [] if refinement is None else list(refinement.named)
    if over_unigram.low > 0:
        return (
            "It is untrained or damaged, or the tokenizer or the text isn't its own."
            f"{looks} Audit it on a text that it must know: {_elsewhere(config)}"
        )
    if looks or named:
        if named:
            looks += f" Look at {numbered(named)}: what refining alone gains there stands out."
            looks += " Layer 1 makes up for the embedding too, if that is what is wrong." if 1 in named else ""
        looks += _on_parent(better_in_parent)
        return " ".join((looks.strip(), "What repairs it can be had:", _run(config, "--save-repairs", "DIR")))
    if better_in_parent:
        return f"{_on_parent(better_in_parent).strip()} {_on_change(config)}"
    return " ".join((*_on_growth(network, config), *_on_head(network, cut_at), *_last(network, refinement, config)))


def _on_change(config: AuditConfig) -> str:
    """What says more of how a checkpoint differs from its parent: of weights that --bits rounds, no file does."""
    held = parse_bits(config.bits)
    if isinstance(held, str):
        paths = [str(config.parent), config.checkpoint]
        return f"What was changed there: {next_command('diff', config, paths=paths, keep=(*STORED, *TEXT))}"
    average = ("--average", str(max(2, round(held.bits))))
    command = next_command("budget", config, *average, keep=(*STORED, *TEXT))
    return f"--bits {config.bits} rounds them all alike; where as many bits are worth most: {command}"


def _on_looks(layers: Sequence[LayerRow]) -> str:
    """The layers with a symptom, each symptom in a sentence; nothing for none."""
    words = []
    for symptom, says in _SYMPTOMS.items():
        found = [row.layer for row in layers if symptom in row.symptoms]
        if found and len(found) == len(layers):
            words.append(f" All layers: {says}.")
        elif found:
            words.append(f" Look at {numbered(found)}: {says}.")
    return "".join(words)


def _on_parent(better: Sequence[int]) -> str:
    """In which layers the parent's blocks do better; nothing for none."""
    return f" The parent's block does better in {numbered(better)}." if better else ""


def numbered(layers: Sequence[int]) -> str:
    """`layer 3`, or `layers 3, 7`, of many the first few."""
    more = " and more" if len(layers) > _MOST_LISTED else ""
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers[:_MOST_LISTED]))}{more}"


def _on_growth(network: NetworkRow, config: AuditConfig) -> Iterator[str]:
    """Whether more text would find more."""
    refinement, tolerance = network.refinement, config.tolerance
    if refinement is None or refinement.half is None:
        return
    gain, half = refinement.gain, refinement.half
    if gain.low > tolerance and gain.value > 1.1 * half.value:
        yield "With more text refining would gain more."


def _on_head(network: NetworkRow, cut_at: int | None) -> Iterator[str]:
    head = network.held_out.gap_head
    confident = network.temperature_gain.low > RESOLUTION and network.temperature >= OVERCONFIDENT
    if confident:
        yield (
            f"Its logits want a temperature of {network.temperature:.2f}: it is over-fitted, or the text is unlike "
            "that of training."
        )
    elif head.low > RESOLUTION:
        name = "A refitted head" if network.readout == "refit" else f"The readout {network.readout}"
        yield f"{name} alone gains: that is the head, or a text unlike that of training, not the layers."
    elif head.high < -RESOLUTION:
        yield (
            f"The readout {network.readout} loses against the own head on held-out text: there was too little text to "
            "fit it; compare with --readout own."
        )
    if cut_at is not None and (confident or head.low > RESOLUTION):
        yield f"Or it sees too little at a time: {cut_at} tokens (--seq-len, with more --tokens)."


def _last(network: NetworkRow, refinement: LayerRefinement | None, config: AuditConfig) -> Iterator[str]:
    """The command or the experiment that the advice ends with."""
    match network.held_out.verdict:
        case Verdict.RED:
            yield (
                "Look for what stopped its training (learning rate, data, a frozen layer), train on, and audit the "
                "next checkpoint beside this one: "
                f"{next_command('batch', config, paths=(config.checkpoint, 'NEXT'), keep=(*NETWORK, *TEXT))}"
            )
        case Verdict.YELLOW if (missing := _untold(refinement, config)) is not None:
            yield f"Whether one layer is at fault, it takes more to tell: {_run(config, *missing)}"
        case Verdict.YELLOW if network.held_out.gap_head.low > config.tolerance:
            yield (
                f"{_even(refinement)}. First rule out the text, with one of its training, and then train it on: "
                f"{_elsewhere(config)}"
            )
        case Verdict.YELLOW:
            yield (
                f"{_even(refinement)}: train it on, longer or at a higher rate, or audit it on text of its training: "
                f"{_elsewhere(config)}"
            )
        case Verdict.GREEN if network.held_out.gap_head.low > config.tolerance:
            yield f"Its layers leave nothing to do that this text shows. More text is a harder test: {_more(config)}"
        case Verdict.GREEN:
            yield f"Nothing to do that this text shows. More text is a harder test: {_more(config)}"
        case Verdict.GREY if network.refinement is None:
            yield f"The strongest reference was left out: {_run(config, '--schedules', 'refined')}"
        case Verdict.GREY:
            yield f"More text narrows the interval: {_more(config)}"


def _even(refinement: LayerRefinement | None) -> str:
    """That no layer is named, and which gains most all the same."""
    leading = () if refinement is None else refinement.leading
    gains = "gain" if len(leading) > 1 else "gains"
    return f"No layer stands out, though {numbered(leading)} {gains} most" if leading else "No layer stands out"


def _untold(refinement: LayerRefinement | None, config: AuditConfig) -> tuple[str, ...] | None:
    """The flags that it takes to tell one layer's gap from another's; None where that was done."""
    if refinement is None:
        return "--effort", "default"
    return None if refinement.judged else ("--effort", "thorough", *_tokens(config))


def _tokens(config: AuditConfig) -> tuple[str, str]:
    return "--tokens", str(4 * config.tokens)


def _more(config: AuditConfig) -> str:
    return _run(config, *_tokens(config))


def _run(config: AuditConfig, *words: str) -> str:
    return next_command("run", config, *words, keep=(*NETWORK, *TEXT))


def _elsewhere(config: AuditConfig) -> str:
    """The same network on another text."""
    return next_command("run", config, "--data", "TEXT", keep=(*NETWORK, "tokenizer"))


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
