"""Measurements into the records of a report: selection on *select*, figures with intervals, verdicts, words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from peelaudit.auditing.advice import advise, read_layer
from peelaudit.auditing.measure import Measurements, ScheduleLosses
from peelaudit.errors import NonFiniteResult
from peelaudit.method.diagnosis.naming import Naming, name_layers
from peelaudit.method.references.schedules import staircase
from peelaudit.method.statistics.bounds import Reference, best, figures, paper_verdict, yes_bounds
from peelaudit.method.statistics.panel import Losses, Panel, Split
from peelaudit.records import (
    BaselineLosses,
    ClusterSums,
    Estimate,
    LayerRow,
    NetworkRow,
    ScheduleBounds,
    ScheduleResult,
    ScheduleSearch,
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
    advice: str
    naming: Naming


def conclude(measured: Measurements, config: AuditConfig, vocabulary: int) -> Findings:
    """Choose on *select*, report on *held-out* and *fit*.

    Raises:
        NonFiniteResult: a figure is NaN, Inf or not defined.
    """
    n_layers = len(measured.own)
    network, sums = _network(measured, config)
    naming = name_layers(measured.examined, config.repair)
    layers = tuple(_layer(measured, config, depth, naming) for depth in range(1, n_layers))
    schedules = tuple(_schedule(measured, result) for result in measured.schedules)
    baselines = BaselineLosses(float(np.log(vocabulary)), measured.panel.estimate(measured.unigram, "held_out"))
    chosen = next(schedule for schedule in schedules if schedule.name == network.best_schedule)
    rows = (*layers, _last_layer(measured, network, chosen, sums, naming))
    return Findings(
        held_out_predictions=measured.panel.cluster_predictions("held_out"),
        baselines=baselines,
        network=network,
        layers=rows,
        schedules=schedules,
        yes=yes_bounds(
            measured.panel,
            [result.schedule for result in measured.schedules],
            [result.readout for result in measured.schedules],
        ),
        search=ScheduleSearch(config.schedules, 2 ** (n_layers - 1), measured.searched, len(schedules)),
        advice=advise(network, baselines, chosen, rows, naming.repair),
        naming=naming,
    )


def _network(measured: Measurements, config: AuditConfig) -> tuple[NetworkRow, ClusterSums]:
    """The row, and the sums that its held-out figures were taken from, which the last layer's row has too."""
    panel, n_layers = measured.panel, len(measured.own)
    own, trained = measured.own[-1], measured.readout[-1]
    references = [Reference(r.schedule.name, r.schedule.targets, r.readout) for r in measured.schedules]
    yes0 = next(reference for reference in references if reference.targets == (n_layers,) * n_layers)
    on_select, on_fit = best(panel, references, "select"), best(panel, references, "fit")
    floats = _float_references(measured, n_layers)
    others = [reference for reference in references if not np.array_equal(reference.losses, trained)]
    rival = best(panel, others, "select") if others else None
    of = partial(figures, panel, own=own, trained=trained, yes0=yes0.losses)
    row = NetworkRow(
        readout=config.readout,
        fit=of(split="fit", bound=on_fit.losses, float_bound=_least(panel, floats, "fit")),
        held_out=of(split="held_out", bound=on_select.losses, float_bound=_least(panel, floats, "select")),
        best_schedule=on_select.name,
        best_schedule_fit=on_fit.name,
        paper_verdict=paper_verdict(*(panel.mean(losses, "fit") for losses in (own, yes0.losses, on_fit.losses))),
        rival=rival.name if rival else None,
        margin=panel.estimate(rival.losses - trained, "held_out") if rival else None,
    )
    return row, _sums(panel, own=own, trained=trained, yes0=yes0.losses, bound=on_select.losses)


def _sums(panel: Panel, *, own: Losses, trained: Losses, yes0: Losses, bound: Losses) -> ClusterSums:
    own_sums, trained_sums, yes0_sums, bound_sums = (
        panel.cluster_sums(losses, "held_out") for losses in (own, trained, yes0, bound)
    )
    return ClusterSums(own_sums, trained_sums, yes0_sums, bound_sums)


def _references(measured: Measurements, depth: int) -> list[Reference]:
    """The reference states at this depth, each under the name of the first schedule that passes through it."""
    references: dict[tuple[int, ...], Reference] = {}
    for result in measured.schedules:
        prefix = result.schedule.targets[:depth]
        references.setdefault(prefix, Reference(result.schedule.name, prefix, measured.nodes[prefix]))
    return list(references.values())


def _float_references(measured: Measurements, depth: int) -> list[Reference]:
    """The float reference states at this depth; none where only those of the network's own kind were fitted."""
    nodes = {} if measured.float_nodes is None else measured.float_nodes
    return [Reference("", prefix, losses) for prefix, losses in nodes.items() if len(prefix) == depth]


def _least(panel: Panel, references: list[Reference], split: Split) -> Losses | None:
    return best(panel, references, split).losses if references else None


def _layer(measured: Measurements, config: AuditConfig, depth: int, naming: Naming) -> LayerRow:
    panel, n_layers = measured.depth_panel, len(measured.own)
    own, trained = measured.own[depth - 1], measured.readout[depth - 1]
    references = _references(measured, depth)
    final = staircase((), n_layers).targets[:depth]
    yes0 = next(reference.losses for reference in references if reference.targets == final)
    chosen, on_fit = best(panel, references, "select"), best(panel, references, "fit")
    floats = _float_references(measured, depth)
    of = partial(figures, panel, own=own, trained=trained, yes0=yes0)
    held_out = of(split="held_out", bound=chosen.losses, float_bound=_least(panel, floats, "select"))
    redundancy = _error(measured, measured.peel_map[depth - 1].skipped, depth)
    looks, slopes = naming.symptoms[depth - 1], naming.slopes[depth - 1]
    return LayerRow(
        layer=depth,
        readout=config.depth_readout,
        fit=of(split="fit", bound=on_fit.losses, float_bound=_least(panel, floats, "fit")),
        held_out=held_out,
        gap=held_out.gap_layers,
        best_schedule=chosen.name,
        best_target=chosen.targets[-1],
        redundancy=redundancy,
        projection_error=_projection(measured, depth),
        reading=read_layer(depth, held_out, chosen.name, chosen.targets[-1], redundancy, looks, slopes),
        held_out_sums=_sums(panel, own=own, trained=trained, yes0=yes0, bound=chosen.losses),
        weights_sha256=measured.examined.digests[depth - 1],
        repair_gap=naming.repair_gaps[depth - 1],
        scale_slope=slopes.get(Symptom.MISSCALED),
        bulk_slope=slopes.get(Symptom.NOISY),
        signs=measured.examined.signs[depth - 1],
        symptoms=looks,
    )


def _last_layer(
    measured: Measurements, network: NetworkRow, chosen: ScheduleResult, sums: ClusterSums, naming: Naming
) -> LayerRow:
    n_layers = len(measured.own)
    redundancy = _error(measured, measured.peel_map[-1].skipped, n_layers)
    looks, slopes = naming.symptoms[-1], naming.slopes[-1]
    return LayerRow(
        layer=n_layers,
        readout=network.readout,
        fit=network.fit,
        held_out=network.held_out,
        gap=network.held_out.gap_layers,
        best_schedule=chosen.name,
        best_target=chosen.targets[-1],
        redundancy=redundancy,
        projection_error=_projection(measured, n_layers),
        reading=read_layer(n_layers, network.held_out, chosen.name, chosen.targets[-1], redundancy, looks, slopes),
        held_out_sums=sums,
        weights_sha256=measured.examined.digests[-1],
        repair_gap=naming.repair_gaps[-1],
        scale_slope=slopes.get(Symptom.MISSCALED),
        bulk_slope=slopes.get(Symptom.NOISY),
        signs=measured.examined.signs[-1],
        symptoms=looks,
    )


def _projection(measured: Measurements, depth: int) -> tuple[Estimate, ...]:
    errors = measured.peel_map[depth - 1].held_out
    return tuple(_error(measured, error, depth + step) for step, error in enumerate(errors))


def _error(measured: Measurements, squared: Losses, state: int) -> Estimate:
    """A squared error on *held-out* over the spread of the state after layer `state`."""
    try:
        return measured.panel.bootstraps["held_out"].ratio(squared, measured.deviations[state - 1])
    except FloatingPointError as error:
        message = f"the state after layer {state} doesn't vary over the held-out tokens, or an error is NaN or Inf"
        raise NonFiniteResult(message) from error


def _schedule(measured: Measurements, result: ScheduleLosses) -> ScheduleResult:
    panel, schedule = measured.panel, result.schedule
    fit, select, held_out = (
        ScheduleBounds(panel.estimate(result.own, split), panel.estimate(result.readout, split))
        for split in ("fit", "select", "held_out")
    )
    return ScheduleResult(schedule.name, schedule.targets, schedule.waypoints, fit, select, held_out, result.blocks)
