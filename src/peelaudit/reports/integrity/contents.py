"""By their weights and their names: copies, shards of other steps, names that are those of other steps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from peelaudit.records import AuditReport
from peelaudit.reports.integrity.finding import Defect, Finding, Step, number_in, of_steps, stem_of

__all__ = ["misnamed", "same_weights", "shared_layers"]


def _content(report: AuditReport) -> object:
    """What two checkpoints have in common that are the same network."""
    return tuple(row.weights_sha256 for row in report.layers), report.layers[-1].held_out_sums.own


def same_weights(reports: Sequence[AuditReport]) -> Iterator[Finding]:
    """A copy is none if it doesn't claim to be another step: `last.pt`, `final/`."""
    groups: dict[object, list[AuditReport]] = defaultdict(list)
    for report in reports:
        groups[_content(report)].append(report)
    for group in groups.values():
        first, *others = group
        copies = [first, *(other for other in others if _claims_another(first, other))]
        if len(copies) > 1:
            yield Finding(Defect.SAME_WEIGHTS, tuple(map(_called, copies)), _paths(copies))


def _claims_another(report: AuditReport, other: AuditReport) -> bool:
    steps = (report.checkpoint.training_step, other.checkpoint.training_step)
    if None not in steps and steps[0] != steps[1]:
        return True
    paths = (report.checkpoint.path, other.checkpoint.path)
    return _pattern(paths[0]) == _pattern(paths[1]) and number_in(paths[0]) != number_in(paths[1])


def _called(report: AuditReport) -> int:
    """The step that a checkpoint's name says, or else the one that it records."""
    number = number_in(report.checkpoint.path)
    return number if number is not None else report.checkpoint.training_step or 0


def _paths(reports: Iterable[AuditReport]) -> tuple[str, ...]:
    return tuple(report.checkpoint.path for report in reports)


def misnamed(reports: Sequence[AuditReport]) -> Iterator[Finding]:
    """Where names and records count the same thing, and yet not in the same order. Names may count epochs."""
    kinds: dict[str, list[tuple[int, int, AuditReport]]] = defaultdict(list)
    for report in reports:
        number, step = number_in(report.checkpoint.path), report.checkpoint.training_step
        if number is not None and step is not None:
            kinds[_pattern(report.checkpoint.path)].append((number, step, report))
    for known in kinds.values():
        known.sort(key=lambda item: item[:2])
        numbers, recorded = {number for number, _, _ in known}, [step for _, step, _ in known]
        ascending = all(before < after for before, after in pairwise(recorded))
        wrong = [(step, report) for number, step, report in known if number != step]
        if not ascending and wrong and all(step in numbers for step, _ in wrong):
            yield Finding(Defect.MISNAMED, tuple(step for step, _ in wrong), _paths(report for _, report in wrong))


def shared_layers(series: Sequence[Step]) -> Iterator[Finding]:
    """Blocks that are the same in some steps. Those that are so in all, or in three on end, were not trained there."""
    distinct = sorted({_content(report): index for index, (_, report) in enumerate(series)}.values())
    layers: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for layer in range(len(series[0][1].layers)):
        holders: dict[str, list[int]] = defaultdict(list)
        for index in distinct:
            holders[series[index][1].layers[layer].weights_sha256].append(index)
        for indices in holders.values():
            on_end = indices[-1] - indices[0] == len(indices) - 1
            if 1 < len(indices) < len(distinct) and not (on_end and len(indices) > 2):
                layers[tuple(indices)].append(layer + 1)
    for places, shared in layers.items():
        steps, neighbours = [series[index] for index in places], places[-1] - places[0] < len(places)
        yield of_steps(Defect.SHARED_LAYERS, steps, layers=tuple(shared), neighbours=neighbours)


def _pattern(path: str) -> str:
    """What names of one kind have in common: ckpt-000250 and ckpt-000600 differ in their number alone."""
    return re.sub(r"[0-9]+", "#", stem_of(path))
