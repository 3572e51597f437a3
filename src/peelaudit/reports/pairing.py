"""Two reports on the same tokens: what pairs, and the differences of their figures. Torch-free.

Every difference is *paired*: the losses that both reports keep per held-out cluster are subtracted before the bootstrap
draws clusters, the same draws as in the reports. What varies from document to document cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peelaudit.errors import IncomparableReports, NonFiniteResult, ReportError
from peelaudit.method.statistics.bootstrap import ClusterBootstrap
from peelaudit.method.statistics.panel import split_seed
from peelaudit.records import AuditReport, ClusterSums, Estimate, LayerRow
from peelaudit.settings.rules import PAIRED

__all__ = ["INDIFFERENT", "Change", "Pairing", "bootstrap_of", "check_rows", "check_settings", "placement_hint"]

_MOST_PREDICTIONS = 2**53
_MOST_DRAWS = 10**8
"""Resamples times the clusters and `_OF_A_DRAW`: about a gigabyte, more than an audit needs, less than a hostile
report could ask for."""
_OF_A_DRAW = 16
"""Numbers that are held of each draw beside its clusters."""

INDIFFERENT = frozenset(
    (
        *("checkpoint", "device", "max_memory", "data", "field", "separator", "config", "adapter", "tokenizer", "bos"),
        "parent",
    )
)
"""Settings that may differ: the subject itself, where it ran, what the digest of the tokens speaks for, and what a
figure of its own is held against.
"""
_TERMS: dict[str, tuple[str, str | None]] = {
    "trained_loss": ("own", None),
    "trained_readout_loss": ("trained", None),
    "yes0": ("yes0", None),
    "bound": ("bound", None),
    "gap_total": ("own", "bound"),
    "gap_head": ("own", "trained"),
    "gap_layers": ("trained", "bound"),
}
"""Each figure of `SplitFigures` as one of `ClusterSums`, less another."""


@dataclass(frozen=True, slots=True)
class Change:
    """A figure in both reports and the paired difference new - base, in nats/token."""

    base: Estimate
    new: Estimate
    difference: Estimate


class Pairing:
    """Two reports on the same tokens with the same settings.

    Raises:
        IncomparableReports: they aren't.
        ReportError: a report's sums don't fit its clusters.
    """

    def __init__(self, base: AuditReport, new: AuditReport) -> None:
        if problems := tuple(_differences(base, new)):
            raise IncomparableReports(*problems)
        self.base, self.new = base, new
        for report in (base, new):
            check_rows(report)
        self._predictions = np.array(base.held_out_predictions, dtype=np.float64)
        self._bootstrap = bootstrap_of(base)

    def layers(self) -> tuple[int | None, ...]:
        """The network (None), then every layer that either report has."""
        return (None, *range(1, max(len(self.base.layers), len(self.new.layers)) + 1))

    def change(self, layer: int | None, metric: str) -> Change | None:
        """What became of a figure; None where one report is without it or the row, or reads it out in another way, or
        has another parent.

        Raises:
            NonFiniteResult: a sum or a figure is NaN or infinite.
        """
        rows = self.rows(layer)
        if rows is None or (metric == PAIRED and not self.same_parent):
            return None
        base_figure, new_figure = (_figure(row, metric) for row in rows)
        if base_figure is None or new_figure is None:
            return None
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused below
            base, new = (_sums(row, metric) for row in rows)
            moved = new - base
        where = f"{metric} of {'the network' if layer is None else f'layer {layer}'}"
        try:
            difference = self._bootstrap.ratio(moved, self._predictions)
        except FloatingPointError as error:
            raise NonFiniteResult(
                f"{self.new.checkpoint.path} against {self.base.checkpoint.path}: {where} is NaN or Inf"
            ) from error
        return Change(base_figure, new_figure, difference)

    @property
    def same_parent(self) -> bool:
        """Whether both reports are against the same parent."""
        parents = [report.parent and report.parent.checkpoint.sha256 for report in (self.base, self.new)]
        return parents[0] is not None and parents[0] == parents[1]

    def over_yes0(self) -> Estimate | None:
        """The new network's trained loss less YES-0, under its readout, nats/token; None where that wasn't run.

        Raises:
            NonFiniteResult: it isn't finite.
        """
        sums = self.new.layers[-1].held_out_sums
        if sums.yes0 is None:
            return None
        try:
            return self._bootstrap.ratio(np.array(sums.trained) - np.array(sums.yes0), self._predictions)
        except FloatingPointError as error:
            raise NonFiniteResult(f"{self.new.checkpoint.path}: a loss of the network is NaN or Inf") from error

    def rows(self, layer: int | None) -> tuple[LayerRow, LayerRow] | None:
        """The row in both reports; the network's is that of the last layer."""
        reports = (self.base, self.new)
        if layer is None:
            return self.base.layers[-1], self.new.layers[-1]
        if layer > min(len(report.layers) for report in reports):
            return None
        base, new = (report.layers[layer - 1] for report in reports)
        return (base, new) if base.readout == new.readout else None

    def movement(self, layer: int) -> float:
        """By how much the depth's own-head loss differs, nats/token: the root mean square over clusters."""
        base, new = (np.array(report.layers[layer - 1].held_out_sums.own) for report in (self.base, self.new))
        with np.errstate(over="ignore"):
            squares = ((new - base) / self._predictions) ** 2
            return math.sqrt(float(np.average(squares, weights=self._predictions)))


def check_settings(base: AuditReport, settings: Mapping[str, object]) -> None:
    """Raise IncomparableReports if any of these settings, of an audit to come, keeps it from being compared."""
    known = {name: value for name, value in base.settings if name in settings}
    if problems := tuple(_differing(known, settings)):
        raise IncomparableReports(*problems)


def check_rows(report: AuditReport) -> None:
    """Raise ReportError unless the rows are layers 1 to L, each with a sum for each held-out cluster, and what the
    gaps name is among them.
    """
    rows, predictions = report.layers, report.held_out_predictions
    if not rows or [row.layer for row in rows] != list(range(1, len(rows) + 1)):
        raise ReportError(f"{report.checkpoint.path}: the report's rows aren't those of layers 1 to L")
    if report.refinement is not None and not set(report.refinement.named) <= {row.layer for row in rows}:
        raise ReportError(f"{report.checkpoint.path}: the report's gaps name a layer that it doesn't have")
    sums = [losses for row in rows for losses in _all(row.held_out_sums)]
    sums += [row.parent_sums for row in rows if row.parent_sums]
    counted = len(predictions) > 1 and all(1 <= count <= _MOST_PREDICTIONS for count in predictions)
    if not counted or any(len(losses) != len(predictions) for losses in sums):
        raise ReportError(f"{report.checkpoint.path}: the report's sums don't fit its held-out clusters")


def bootstrap_of(report: AuditReport) -> ClusterBootstrap:
    """The draws that the report's own intervals on held-out were made with.

    Raises:
        ReportError: its settings don't say which.
    """
    clusters = len(report.held_out_predictions)
    resamples, seed = (_whole(dict(report.settings).get(name)) for name in ("resamples", "seed"))
    if resamples is None or seed is None or not 1 <= resamples <= _MOST_DRAWS // (clusters + _OF_A_DRAW):
        raise ReportError(f"{report.checkpoint.path}: the report's intervals can't be drawn again by its settings")
    return ClusterBootstrap(np.arange(clusters), resamples=resamples, seed=split_seed(seed, "held_out"))


def _whole(value: object) -> int | None:
    """A whole number that isn't negative; True is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _all(sums: ClusterSums) -> tuple[tuple[float, ...], ...]:
    return sums.own, sums.trained, sums.bound, *(() if sums.yes0 is None else (sums.yes0,))


def _figure(row: LayerRow, metric: str) -> Estimate | None:
    if metric == PAIRED:
        return row.parent_gap if row.parent_sums else None
    figure: Estimate | None = getattr(row.held_out, metric)
    return figure


def _sums(row: LayerRow, metric: str) -> NDArray[np.float64]:
    if metric == PAIRED:
        return np.array(row.parent_sums, dtype=np.float64)
    sums, (plus, minus) = row.held_out_sums, _TERMS[metric]
    total = np.array(getattr(sums, plus), dtype=np.float64)
    return total if minus is None else total - np.array(getattr(sums, minus), dtype=np.float64)


def _differences(base: AuditReport, new: AuditReport) -> Iterator[str]:
    """What keeps the reports from being paired, a sentence each."""
    digests = (base.data.tokens_sha256, new.data.tokens_sha256)
    if digests[0] != digests[1]:
        hint = placement_hint((base, new))
        yield f"the calibration tokens{hint} are {digests[0][:12]}… in the base, {digests[1][:12]}… in the new"
    elif base.held_out_predictions != new.held_out_predictions:
        yield "the held-out clusters are not the same"
    yield from _differing(dict(base.settings), dict(new.settings))


def placement_hint(reports: Iterable[AuditReport]) -> str:
    """What to say of tokens that differ, where some networks wanted the tokenizer's first token before every sequence
    and others didn't; else nothing.
    """
    places = {report.data.front.placement for report in reports if report.data.front is not None}
    return " (with the first one before every sequence in some alone: give --bos)" if len(places) > 1 else ""


def _differing(base: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys((*base, *new)):
        if name not in INDIFFERENT and base.get(name) != new.get(name):
            yield f"{name.replace('_', '-')} is {base.get(name)!r} in the base, {new.get(name)!r} in the new"
