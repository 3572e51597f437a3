"""Two reports on the same tokens, row by row, and where a change begins. Torch-free.

Every difference is *paired*: the losses that both reports keep per held-out cluster are subtracted before the bootstrap
draws clusters, the same draws as in the reports. What varies from document to document cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from peelaudit.errors import IncomparableReports, NonFiniteResult, ReportError
from peelaudit.records import AuditReport, ClusterSums, Estimate, GateCheck, LayerRow, SplitFigures, Verdict
from peelaudit.stats import HELD_OUT, RESOLUTION, ClusterBootstrap

__all__ = [
    "TOLERANCE",
    "Change",
    "Comparison",
    "ComparisonRow",
    "Origin",
    "Pairing",
    "Status",
    "check_rows",
    "check_settings",
    "compare",
]

TOLERANCE = 1e-3
"""nats/token, a tenth of a per cent of the perplexity: by how much a loss has to move for a row to have changed."""
SHARE = 0.25
"""Of the whole network's change: with less, a depth is not where the change begins."""

_INDIFFERENT = frozenset(("checkpoint", "device", "data", "field", "separator", "config", "tokenizer"))
"""Settings that may differ: the subject itself, where it ran, and what the digest of the tokens speaks for."""
_LOSING = (Verdict.RED, Verdict.YELLOW)
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


class Status(StrEnum):
    """What became of a row since the base: the first of these that is true.

    `d` is the paired difference new - base of the row's trained loss, under the model's own head; a row that is red or
    yellow on held-out tokens loses to a reference.
    """

    MISSING = "missing"
    """The base has the row, the new report has none that is read out the same way."""
    NEW = "new"
    """The row loses to a reference and the base's did not, and the whole interval of its gap's difference is above the
    tolerance; or the base has no such row."""
    FIXED = "fixed"
    """The base's row was losing, this one isn't, and the whole interval of its gap's difference is below minus the
    tolerance."""
    WORSE = "worse"
    """The whole interval of `d` is above the tolerance."""
    BETTER = "better"
    """The whole interval of `d` is below minus the tolerance."""
    UNCHANGED = "unchanged"
    """No change is shown: the interval of `d` reaches into the tolerance, on either side."""


@dataclass(frozen=True, slots=True)
class Change:
    """A figure in both reports and the paired difference new - base, in nats/token."""

    base: Estimate
    new: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A row of both reports. `layer` is None for the network. `trained_loss` is under the model's own head; it and
    `gap_layers` are None where one report is without the row. `same_weights` says whether block `layer` is the same in
    both, and is None for the network and where there is nothing to compare.
    """

    layer: int | None
    status: Status
    trained_loss: Change | None
    gap_layers: Change | None
    same_weights: bool | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the change begins: the first layer that could have caused it. None where no layer can be named. `words`
    says it in a sentence or two.
    """

    layer: int | None
    words: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports, row by row: the network, then the layers. `tolerance` is in nats/token. `warnings` name what differs
    and may matter. `checks` are those of a gate, if there was one.
    """

    base: str
    new: str
    tolerance: float
    rows: tuple[ComparisonRow, ...]
    origin: Origin
    warnings: tuple[str, ...]
    checks: tuple[GateCheck, ...] = ()


def compare(base: AuditReport, new: AuditReport, *, tolerance: float = TOLERANCE) -> Comparison:
    """Compare a report with an earlier one.

    Raises:
        IncomparableReports: not the same tokens, or other settings that matter; every difference is told.
        ReportError: a report's sums don't fit its clusters.
        NonFiniteResult: a figure is NaN or infinite.
    """
    pairing = Pairing(base, new)
    return Comparison(
        base=base.checkpoint.path,
        new=new.checkpoint.path,
        tolerance=tolerance,
        rows=tuple(_row(pairing, layer, tolerance) for layer in pairing.layers()),
        origin=pairing.origin(),
        warnings=tuple(_warnings(base, new)),
    )


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
        self._predictions = np.array(base.held_out_predictions, dtype=np.float64)
        for report in (base, new):
            check_rows(report)
        settings = dict(base.settings)
        resamples, seed = settings.get("resamples"), settings.get("seed")
        if not (isinstance(resamples, int) and isinstance(seed, int) and len(self._predictions) > 1):
            raise ReportError(f"{base.checkpoint.path}: its report doesn't say how its intervals were drawn")
        clusters = np.arange(len(self._predictions))
        self._bootstrap = ClusterBootstrap(clusters, resamples=resamples, seed=seed + HELD_OUT)

    def layers(self) -> tuple[int | None, ...]:
        """The network (None), then every layer that either report has."""
        return (None, *range(1, max(len(self.base.layers), len(self.new.layers)) + 1))

    def change(self, layer: int | None, metric: str) -> Change | None:
        """What became of a figure; None where one report is without the row, or reads it out in another way.

        Raises:
            NonFiniteResult: a sum or a figure is NaN or infinite.
        """
        rows = self.rows(layer)
        if rows is None:
            return None
        base, new = (_sums(row.held_out_sums, metric) for row in rows)
        where = f"{metric} of {'the network' if layer is None else f'layer {layer}'}"
        try:
            difference = self._bootstrap.ratio(new - base, self._predictions)
        except FloatingPointError as error:
            raise NonFiniteResult(
                f"{self.new.checkpoint.path} against {self.base.checkpoint.path}: {where} is NaN or Inf"
            ) from error
        figures = [getattr(row.held_out, metric) for row in rows]
        return Change(figures[0], figures[1], difference)

    def over_yes0(self) -> Estimate:
        """The new network's trained loss less YES-0, under its readout, nats/token. Raises NonFiniteResult."""
        sums = self.new.layers[-1].held_out_sums
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

    def origin(self) -> Origin:
        """Where the change begins, by the blocks' weights and by how far the loss moves at each depth.

        Cut after layer k and read out by the model's own head, the network depends on blocks 1 to k alone: if block k
        was changed and none before it, depths 1 to k - 1 have the very losses of the base.
        """
        depth = len(self.base.layers)
        if depth != len(self.new.layers):
            return Origin(None, "The networks differ in depth: no layer is named.")
        changed = [
            row.layer for row in self.base.layers if self.new.layers[row.layer - 1].weights_sha256 != row.weights_sha256
        ]
        moves = [self._move(layer) for layer in range(1, depth + 1)]
        first = next(layer for layer, move in enumerate(moves, 1) if move > SHARE * moves[-1] or layer == depth)
        return _origin(changed, depth, first, moved=moves[-1] > RESOLUTION)

    def _move(self, layer: int) -> float:
        """By how much the depth's own-head loss differs, nats/token: the root mean square over clusters."""
        base, new = (np.array(report.layers[layer - 1].held_out_sums.own) for report in (self.base, self.new))
        squares = ((new - base) / self._predictions) ** 2
        return math.sqrt(float(np.average(squares, weights=self._predictions)))


def _origin(changed: list[int], depth: int, first: int, *, moved: bool) -> Origin:
    """`first` is the first depth whose loss moves by more than `SHARE` of the network's."""
    if not changed and not moved:
        return Origin(None, "Nothing has changed: the layers' weights and the predictions are the same.")
    if not changed:
        return Origin(None, "No layer's weights differ: the embedding, the final norm or the head do.")
    if len(changed) < depth:
        names = ", ".join(map(str, changed))
        only = f"Only layer {names} has" if len(changed) == 1 else f"Only layers {names} have"
        return Origin(changed[0], f"The change begins at layer {changed[0]}. {only} other weights than in the base.")
    if not moved:
        return Origin(None, "Every layer has other weights than in the base, but the predictions are the same.")
    words = (
        f"The change begins at layer {first}. Every layer has other weights than in the base; cut after layer k, layer "
    )
    words += (
        f"{first} is the first at which the loss moves by more than a quarter of what it moves in the whole network."
    )
    if first == 1:
        words += " A network that was trained anew looks like that as well."
    return Origin(first, words)


def check_settings(base: AuditReport, settings: Mapping[str, object]) -> None:
    """Raise IncomparableReports if any of these settings, of an audit to come, keeps it from being compared."""
    known = {name: value for name, value in base.settings if name in settings}
    if problems := tuple(_differing(known, settings)):
        raise IncomparableReports(*problems)


def check_rows(report: AuditReport) -> None:
    """Raise ReportError unless the rows are layers 1 to L, each with a sum for each held-out cluster."""
    rows, predictions = report.layers, report.held_out_predictions
    if not rows or [row.layer for row in rows] != list(range(1, len(rows) + 1)):
        raise ReportError(f"{report.checkpoint.path}: the report's rows aren't those of layers 1 to L")
    sums = [losses for row in rows for losses in _all(row.held_out_sums)]
    if not predictions or min(predictions) < 1 or any(len(losses) != len(predictions) for losses in sums):
        raise ReportError(f"{report.checkpoint.path}: the report's sums don't fit its held-out clusters")


def _all(sums: ClusterSums) -> tuple[tuple[float, ...], ...]:
    return sums.own, sums.trained, sums.yes0, sums.bound


def _sums(sums: ClusterSums, metric: str) -> NDArray[np.float64]:
    plus, minus = _TERMS[metric]
    total = np.array(getattr(sums, plus), dtype=np.float64)
    return total if minus is None else total - np.array(getattr(sums, minus), dtype=np.float64)


def _row(pairing: Pairing, layer: int | None, tolerance: float) -> ComparisonRow:
    loss, gap = (pairing.change(layer, metric) for metric in ("trained_loss", "gap_layers"))
    rows = pairing.rows(layer)
    if loss is None or gap is None or rows is None:
        missing = layer is not None and layer <= len(pairing.base.layers)
        return ComparisonRow(layer, Status.MISSING if missing else Status.NEW, None, None, None)
    same = None if layer is None else rows[0].weights_sha256 == rows[1].weights_sha256
    return ComparisonRow(layer, _status(rows[0].held_out, rows[1].held_out, loss, gap, tolerance), loss, gap, same)


def _status(base: SplitFigures, new: SplitFigures, loss: Change, gap: Change, tolerance: float) -> Status:
    was_losing, losing = base.verdict in _LOSING, new.verdict in _LOSING
    if losing and not was_losing and gap.difference.low > tolerance:
        return Status.NEW
    if was_losing and not losing and gap.difference.high < -tolerance:
        return Status.FIXED
    if loss.difference.low > tolerance:
        return Status.WORSE
    return Status.BETTER if loss.difference.high < -tolerance else Status.UNCHANGED


def _differences(base: AuditReport, new: AuditReport) -> Iterator[str]:
    """What keeps the reports from being paired, a sentence each."""
    digests = (base.data.tokens_sha256, new.data.tokens_sha256)
    if digests[0] != digests[1]:
        yield f"the calibration tokens are {digests[0][:12]}… in the base, {digests[1][:12]}… in the new"
    elif base.held_out_predictions != new.held_out_predictions:
        yield "the held-out clusters are not the same"
    yield from _differing(dict(base.settings), dict(new.settings))


def _differing(base: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys((*base, *new)):
        if name not in _INDIFFERENT and base.get(name) != new.get(name):
            yield f"{name.replace('_', '-')} is {base.get(name)!r} in the base, {new.get(name)!r} in the new"


def _warnings(base: AuditReport, new: AuditReport) -> Iterator[str]:
    if base.checkpoint.sha256 == new.checkpoint.sha256:
        yield "both reports are of the same checkpoint"
    ours, theirs = dict(base.versions), dict(new.versions)
    for name in dict.fromkeys((*ours, *theirs)):
        if ours.get(name) != theirs.get(name):
            yield f"{name} is {ours.get(name)} in the base, {theirs.get(name)} in the new"
    devices = [dict(report.settings).get("device") for report in (base, new)]
    if devices[0] != devices[1]:
        yield f"device is {devices[0]} in the base, {devices[1]} in the new"
