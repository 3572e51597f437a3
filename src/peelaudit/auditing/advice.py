"""What to do next, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peelaudit.auditing.wording import SYMPTOMS, numbered
from peelaudit.method.statistics.bootstrap import RESOLUTION
from peelaudit.records import BaselineLosses, Estimate, LayerRefinement, LayerRow, NetworkRow, Verdict
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.bits import parse_bits
from peelaudit.settings.command import NETWORK, STORED, TEXT, next_command

__all__ = ["OVERCONFIDENT", "advise"]

OVERCONFIDENT = 1.05
"""A temperature from which on a network is called over-confident, where it gains."""


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
    for symptom, says in SYMPTOMS.items():
        found = [row.layer for row in layers if symptom in row.symptoms]
        if found and len(found) == len(layers):
            words.append(f" All layers: {says}.")
        elif found:
            words.append(f" Look at {numbered(found)}: {says}.")
    return "".join(words)


def _on_parent(better: Sequence[int]) -> str:
    """In which layers the parent's blocks do better; nothing for none."""
    return f" The parent's block does better in {numbered(better)}." if better else ""


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
    confident = _overconfident(network)
    if confident:
        yield (
            f"Its logits want a temperature of {network.temperature:.2f}: it is over-fitted, or the text is unlike "
            "that of training."
        )
    elif head.low > RESOLUTION:
        name = "A refitted head" if network.readout == "refit" else f"The readout {network.readout}"
        yield (
            f"{name} alone gains: that is the head, training that was too short, or a text unlike that of training, "
            "before it is the layers."
        )
    elif head.high < -RESOLUTION:
        yield (
            f"The readout {network.readout} loses against the own head on held-out text: there was too little text to "
            "fit it; compare with --readout own."
        )
    if cut_at is not None and (confident or head.low > RESOLUTION):
        yield f"Or it sees too little at a time: {cut_at} tokens (--seq-len, with more --tokens)."


def _overconfident(network: NetworkRow) -> bool:
    return network.temperature_gain.low > RESOLUTION and network.temperature >= OVERCONFIDENT


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
            hot = _overconfident(network)
            remedy = "an earlier checkpoint or more data is what it wants" if hot else "train it on"
            yield (
                f"{_even(refinement)}. If this text is like that of its training, {remedy}; if not, audit it on one "
                f"that is: {_elsewhere(config)}"
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
