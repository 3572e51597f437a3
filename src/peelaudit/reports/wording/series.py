"""What a training run shows, and what is wrong with it, in sentences. No rich here: exports use it too."""

from __future__ import annotations

from pathlib import PurePath
from typing import assert_never

from peelaudit.escape import printable
from peelaudit.records import AuditReport
from peelaudit.reports.integrity.finding import Defect, Finding, number_in
from peelaudit.reports.trajectory import Trajectory
from peelaudit.reports.wording.text import VERDICT_WORDS, abbreviate, count, interval, number, signed

__all__ = ["defect_words", "series_words", "watched_words"]

_STEPS_LISTED = 6
_NAME = 48  # characters of a checkpoint's name


def series_words(trajectory: Trajectory) -> tuple[str, ...]:
    """What a training run shows, in sentences."""
    network = _green_words(trajectory)
    if trajectory.met_so_far is None:
        return network, "No checkpoint meets the least YES* so far with a green verdict of its own."
    met = f"Step {count(trajectory.met_so_far)} is the first to meet the least YES* so far"
    if trajectory.met is None:
        return network, f"{met}; none meets that of the whole series."
    if trajectory.met == trajectory.met_so_far:
        return network, f"{met}, and that of the whole series."
    return network, f"{met}, step {count(trajectory.met)} the first to meet that of the whole series."


def _green_words(trajectory: Trajectory) -> str:
    """From which step on the network is green, where that says anything."""
    green, unbeaten = trajectory.green_from, trajectory.unbeaten_from
    if green is None:
        return "The network is not green at its last step."
    if green >= unbeaten:
        return f"The network is green from step {count(green)} on."
    return (
        f"Every verdict is green from step {count(green)} on, which says little before step {count(unbeaten)}: later "
        f"checkpoints are better than the bounds there. From step {count(unbeaten)} on, no later checkpoint is better "
        "than its bound."
    )


def watched_words(path: str, report: AuditReport) -> str:
    """A checkpoint of a run that is watched, in one line: its step, its verdict, its headline."""
    recorded, verdict = report.checkpoint.training_step, report.network.held_out.verdict
    step = number_in(path) if recorded is None else recorded
    which = "no step recorded" if step is None else f"step {count(step)}"
    return f"{which}  {VERDICT_WORDS[verdict][0]} {verdict}  {path}: {report.headline}"


def defect_words(finding: Finding) -> str:
    """What is wrong with a series, as one or two sentences with the names of the steps."""
    match finding.defect:
        case Defect.SAME_WEIGHTS:
            return f"{_all(finding)} have the same weights and the same loss: one checkpoint under several names."
        case Defect.SHARED_LAYERS:
            return _shared(finding)
        case Defect.OUT_OF_LINE:
            before, step, after = _names(finding)
            return (
                f"{_capital(step)} is out of line: it lies {number(finding.distance or 0)} nats/token or more from "
                f"{before} and from {after}{_times(finding)}."
            )
        case Defect.JUMP:
            before, step = _names(finding)
            return (
                f"The run jumps at {step}: it lies {number(finding.distance or 0)} nats/token from "
                f"{before}{_times(finding)}, and is no better."
            )
        case Defect.LOSS_BACK:
            return _back(finding)
        case Defect.MISNAMED:
            return f"{_listed(_records(finding))}: the names are those of other steps."
        case _:
            assert_never(finding.defect)


def _shared(finding: Finding) -> str:
    layers = f"layer{'s' * (len(finding.layers) > 1)} {_listed([str(layer) for layer in finding.layers])}"
    rest = ", unless those were not trained in between" if finding.neighbours else ""
    return (
        f"{_all(finding)} have the weights of {layers} in common, and no others: one holds a shard of the other{rest}."
    )


def _back(finding: Finding) -> str:
    names, rise = _names(finding), finding.rise
    highest = names[finding.steps.index(finding.highest)] if finding.highest in finding.steps else names[-1]
    by = "" if rise is None else f" by {signed(rise.value)} ({interval(rise, sign=True)})"
    words = f"The held-out loss goes back: {highest} is above {names[0]}{by}"
    others = len(names) - 2
    if others:
        words += f", the highest of the {count(others + 1)} from {names[1]} to {names[-1]}"
    if finding.exchanged:
        words += f". With {names[0]} and {names[-1]} exchanged, it would fall throughout"
    return f"{words}."


def _times(finding: Finding) -> str:
    return "" if finding.times is None else f", {finding.times:.3g} times what is usual around it"


def _records(finding: Finding) -> list[str]:
    named = zip(finding.checkpoints, finding.steps, strict=True)
    return [f"{_name(path)} records step {count(step)}" for path, step in named]


def _names(finding: Finding) -> list[str]:
    named = zip(finding.steps, finding.checkpoints, strict=True)
    return [f"step {count(step)} ({_name(path)})" for step, path in named]


def _name(path: str) -> str:
    return abbreviate(printable(PurePath(path).name), _NAME)


def _all(finding: Finding) -> str:
    return _capital(_listed(_names(finding)))


def _listed(names: list[str]) -> str:
    """a, b and c; of many, the first."""
    if len(names) > _STEPS_LISTED:
        names = [*names[: _STEPS_LISTED - 1], f"{count(len(names) - _STEPS_LISTED + 1)} more"]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
