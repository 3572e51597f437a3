"""Measurements into the records of a report: selection on *select*, figures with intervals, verdicts, words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from peelaudit.auditing.advice import advise
from peelaudit.auditing.headline import judge
from peelaudit.auditing.measurements import Measurements, ReferenceLosses, RefinedLosses, ScheduleLosses, TrainedLosses
from peelaudit.auditing.parent import ParentFigures, parent_figures
from peelaudit.auditing.reading import read_layer
from peelaudit.errors import NonFiniteResult
from peelaudit.method.diagnosis.naming import Naming, name_layers
from peelaudit.method.references.schedules import REFINED, staircase
from peelaudit.method.statistics.bounds import Reference, best, figures, paper_verdict, yes_bounds
from peelaudit.method.statistics.panel import Losses, Panel, SplitName, no_loss
from peelaudit.records import (
    BaselineLosses,
    ClusterSums,
    Estimate,
    LayerRow,
    NetworkRow,
    Refinement,
    ScheduleBounds,
    ScheduleResult,
    ScheduleSearch,
    SplitFigures,
    Symptom,
    YesBound,
)
from peelaudit.settings.audit import AuditConfig

__all__ = ["Findings", "conclude"]


@dataclass(frozen=True, slots=True)
class Findings:
    """The computed part of an `AuditReport`."""

    held_out_predictions: tuple[int, ...]
    baselines: BaselineLosses
    network: NetworkRow
    layers: tuple[LayerRow, ...]
    schedules: tuple[ScheduleResult, ...]
    yes: tuple[YesBound, ...]
    search: ScheduleSearch
    headline: str
    advice: str
    naming: Naming
    parent: ParentFigures | None


def conclude(measured: Measurements, config: AuditConfig, vocabulary: int, *, cut_at: int | None = None) -> Findings:
    """Choose on *select*, report on *held-out* and *fit*.

    Args:
        measured: what was measured.
        config: the settings.
        vocabulary: how many words.
        cut_at: positions of a sequence, where the network could see many more.

    Raises:
        NonFiniteResult: a figure is NaN, Inf or not defined.
    """
    trained, references = measured.trained, measured.references
    n_layers = len(trained.own)
    naming = name_layers(measured.examined)
    network, sums = _network(measured, config)
    schedules = tuple(_schedule(trained, result) for result in references.schedules)
    if measured.refined is not None:
        schedules = (_refined_schedule(trained, measured.refined), *schedules)
    baselines = BaselineLosses(float(np.log(vocabulary)), trained.panel.estimate(trained.unigram, "held_out"))
    over_unigram = trained.panel.estimate(trained.own[-1] - trained.unigram, "held_out")
    parent = None if measured.parent is None else parent_figures(measured.parent, trained.panel, config.tolerance)
    verdict, headline = judge(
        network, baselines, over_unigram, naming, config.tolerance, low_bit=measured.low_bit, parent=parent
    )
    network = replace(network, held_out=replace(network.held_out, verdict=verdict))
    chosen = next(schedule for schedule in schedules if schedule.name == network.best_schedule)
    whole = _Cut(network.readout, network.fit, network.held_out, chosen.name, chosen.targets[-1], sums)
    cuts = (*(_cut(measured, config, depth) for depth in range(1, n_layers)), whole)
    rows = tuple(_layer(measured, naming, depth, cut) for depth, cut in enumerate(cuts, 1))
    if parent is not None:
        against = zip(rows, parent.gaps, parent.sums, strict=True)
        rows = tuple(replace(row, parent_gap=gap, parent_sums=sums) for row, gap, sums in against)
    return Findings(
        held_out_predictions=trained.panel.cluster_predictions("held_out"),
        baselines=baselines,
        network=network,
        layers=rows,
        schedules=schedules,
        yes=yes_bounds(
            trained.panel,
            [result.schedule for result in references.schedules],
            [result.readout for result in references.schedules],
        ),
        search=ScheduleSearch(config.schedules, 2 ** (n_layers - 1), references.searched, len(schedules)),
        headline=headline,
        advice=advise(
            network,
            baselines,
            over_unigram,
            rows,
            naming.refinement,
            config,
            better_in_parent=() if parent is None else parent.better,
            cut_at=cut_at,
        ),
        naming=naming,
        parent=parent,
    )


def _network(measured: Measurements, config: AuditConfig) -> tuple[NetworkRow, ClusterSums]:
    """The row, and the sums that its held-out figures were taken from, which the last layer's row has too."""
    panel, n_layers = measured.trained.panel, len(measured.trained.own)
    own, trained = measured.trained.own[-1], measured.trained.readout[-1]
    references = [Reference(r.schedule.name, r.schedule.targets, r.readout) for r in measured.references.schedules]
    on_fit = best(panel, references, "fit")  # the paper's figures: of peeled references alone
    others = [reference for reference in references if not np.array_equal(reference.losses, trained)]
    if (refined := measured.refined) is not None:
        references.append(Reference(REFINED, tuple(range(1, n_layers + 1)), refined.readout))
    yes0 = _yes0(references, n_layers, n_layers)
    on_select = best(panel, references, "select")
    floats = _float_references(measured.references, n_layers)
    rival = best(panel, others, "select") if others else None
    of = partial(figures, panel, own=own, trained=trained, yes0=yes0, tolerance=config.tolerance)
    row = NetworkRow(
        readout=config.readout,
        fit=of(split="fit", bound=on_fit.losses, float_bound=_least(panel, floats, "fit")),
        held_out=of(
            split="held_out",
            bound=on_select.losses,
            float_bound=_least(panel, floats, "select"),
            moved=on_select.name == REFINED,
        ),
        best_schedule=on_select.name,
        best_schedule_fit=on_fit.name,
        paper_verdict=None
        if yes0 is None
        else paper_verdict(*(panel.mean(losses, "fit") for losses in (own, yes0, on_fit.losses))),
        rival=rival.name if rival else None,
        margin=panel.estimate(rival.losses - trained, "held_out") if rival else None,
        temperature=measured.trained.temperature,
        temperature_gain=panel.estimate(own - measured.trained.tempered, "held_out"),
        refinement=None if refined is None else _refinement(panel, trained, refined),
        estimated_gain=None if measured.estimated is None else panel.estimate(measured.estimated, "held_out"),
    )
    return row, _sums(panel, own=own, trained=trained, yes0=yes0, bound=on_select.losses)


def _refinement(panel: Panel, trained: Losses, refined: RefinedLosses) -> Refinement:
    return Refinement(
        steps=refined.steps,
        products=refined.products,
        passes=refined.passes,
        gain=no_loss(panel.estimate(trained - refined.readout, "held_out")),
        half=None if refined.half is None else no_loss(panel.estimate(trained - refined.half, "held_out")),
        held=refined.held,
    )


def _yes0(references: Sequence[Reference], depth: int, n_layers: int) -> Losses | None:
    """Those of the reference whose every block is fitted to the last state, cut at this depth; None without it."""
    final = staircase((), n_layers).targets[:depth]
    return next((reference.losses for reference in references if reference.targets == final), None)


def _sums(panel: Panel, *, own: Losses, trained: Losses, yes0: Losses | None, bound: Losses) -> ClusterSums:
    sums = partial(panel.cluster_sums, split="held_out")
    return ClusterSums(sums(own), sums(trained), None if yes0 is None else sums(yes0), sums(bound))


def _references(found: ReferenceLosses, depth: int) -> list[Reference]:
    """The reference states at this depth, each under the name of the first schedule that passes through it."""
    references: dict[tuple[int, ...], Reference] = {}
    for result in found.schedules:
        prefix = result.schedule.targets[:depth]
        references.setdefault(prefix, Reference(result.schedule.name, prefix, found.nodes[prefix]))
    return list(references.values())


def _float_references(found: ReferenceLosses, depth: int) -> list[Reference]:
    """The float reference states at this depth; none where only those of the network's own kind were fitted."""
    nodes = {} if found.float_nodes is None else found.float_nodes
    return [Reference("", prefix, losses) for prefix, losses in nodes.items() if len(prefix) == depth]


def _least(panel: Panel, references: list[Reference], split: SplitName) -> Losses | None:
    return best(panel, references, split).losses if references else None


@dataclass(frozen=True, slots=True)
class _Cut:
    """Blocks 1 … k alone, read out directly: their figures, and the reference behind the bound."""

    readout: str
    fit: SplitFigures
    held_out: SplitFigures
    best_schedule: str
    best_target: int
    sums: ClusterSums


def _cut(measured: Measurements, config: AuditConfig, depth: int) -> _Cut:
    """The network cut after a layer below the last."""
    panel, n_layers = measured.trained.depth_panel, len(measured.trained.own)
    own, trained = measured.trained.own[depth - 1], measured.trained.readout[depth - 1]
    references = _references(measured.references, depth)
    yes0 = _yes0(references, depth, n_layers)
    chosen, on_fit = best(panel, references, "select"), best(panel, references, "fit")
    floats = _float_references(measured.references, depth)
    of = partial(figures, panel, own=own, trained=trained, yes0=yes0)
    return _Cut(
        readout=config.depth_readout,
        fit=of(split="fit", bound=on_fit.losses, float_bound=_least(panel, floats, "fit")),
        held_out=of(split="held_out", bound=chosen.losses, float_bound=_least(panel, floats, "select")),
        best_schedule=chosen.name,
        best_target=chosen.targets[-1],
        sums=_sums(panel, own=own, trained=trained, yes0=yes0, bound=chosen.losses),
    )


def _layer(measured: Measurements, naming: Naming, depth: int, cut: _Cut) -> LayerRow:
    """The row of a layer: the network cut after it, and what the block by itself shows."""
    redundancy = _error(measured.trained, measured.references.peel_map[depth - 1].skipped, depth)
    looks, slopes = naming.symptoms[depth - 1], naming.slopes[depth - 1]
    turned, signs = measured.examined.influences[depth - 1], measured.examined.signs[depth - 1]
    most, least = _loads(measured, depth)
    return LayerRow(
        layer=depth,
        readout=cut.readout,
        fit=cut.fit,
        held_out=cut.held_out,
        gap=naming.gaps[depth - 1],
        depth_gap=cut.held_out.gap_layers,
        best_schedule=cut.best_schedule,
        best_target=cut.best_target,
        redundancy=redundancy,
        projection_error=_projection(measured, depth),
        reading=read_layer(depth, cut.held_out, cut.best_schedule, cut.best_target, redundancy, looks, slopes, signs),
        held_out_sums=cut.sums,
        weights_sha256=measured.examined.digests[depth - 1],
        scale_slope=slopes.get(Symptom.MISSCALED),
        bulk_slope=slopes.get(Symptom.NOISY),
        influence=_ratio(
            measured.trained, turned, np.ones_like(turned), f"the influence of layer {depth} is NaN or Inf", most=2
        ),
        most_load=most,
        least_load=least,
        routing_gain=_routing(measured, depth),
        signs=signs,
        symptoms=looks,
    )


def _loads(measured: Measurements, depth: int) -> tuple[Estimate | None, Estimate | None]:
    """The shares of the held-out tokens that the most and the least used expert of a block are given."""
    found = measured.examined.loads[depth - 1]
    if found is None:
        return None, None
    trained, doubt = measured.trained, f"the loads of layer {depth}'s experts aren't defined"
    order, ones = found.sum(axis=0).argsort(), np.ones(len(found))
    most, least = (_ratio(trained, found[:, index], ones, doubt, most=1) for index in (order[-1], order[0]))
    return most, least


def _routing(measured: Measurements, depth: int) -> Estimate | None:
    """What a block's router saves, nats/token."""
    found = measured.examined.routings[depth - 1]
    return None if found is None else measured.examined.panel.estimate(found, "held_out")


def _projection(measured: Measurements, depth: int) -> tuple[Estimate, ...]:
    errors = measured.references.peel_map[depth - 1].held_out
    return tuple(_error(measured.trained, error, depth + step) for step, error in enumerate(errors))


def _error(trained: TrainedLosses, squared: Losses, state: int) -> Estimate:
    """A squared error on *held-out* over the spread of the state after layer `state`."""
    doubt = f"the state after layer {state} doesn't vary over the held-out tokens, or an error is NaN or Inf"
    return _ratio(trained, squared, trained.deviations[state - 1], doubt)


def _ratio(
    trained: TrainedLosses, numerator: Losses, denominator: Losses, doubt: str, most: float = math.inf
) -> Estimate:
    """A ratio of sums over the held-out sequences that is between 0 and `most` by what it is, and its interval so too.
    Raises NonFiniteResult with `doubt` where it isn't defined.
    """
    try:
        found = trained.panel.bootstraps["held_out"].ratio(numerator, denominator)
    except FloatingPointError as error:
        raise NonFiniteResult(doubt) from error
    return Estimate(found.value, max(found.low, min(0.0, found.value)), min(found.high, max(most, found.value)))


def _schedule(trained: TrainedLosses, result: ScheduleLosses) -> ScheduleResult:
    panel, schedule = trained.panel, result.schedule
    fit, select, held_out = (
        ScheduleBounds(panel.estimate(result.own, split), panel.estimate(result.readout, split))
        for split in ("fit", "select", "held_out")
    )
    return ScheduleResult(schedule.name, schedule.targets, schedule.waypoints, fit, select, held_out, result.blocks)


def _refined_schedule(trained: TrainedLosses, refined: RefinedLosses) -> ScheduleResult:
    """The reference that knows the labels, as a schedule: its targets are the blocks' own states, corrected."""
    panel = trained.panel
    fit, select, held_out = (
        ScheduleBounds(panel.estimate(refined.own, split), panel.estimate(refined.readout, split))
        for split in ("fit", "select", "held_out")
    )
    return ScheduleResult(REFINED, tuple(range(1, len(trained.own) + 1)), None, fit, select, held_out, ())
